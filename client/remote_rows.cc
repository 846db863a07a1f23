#include "client/remote_rows.h"

#include <string>
#include <utility>
#include <vector>

#include <spdlog/spdlog.h>

#include "client/remote_filler.h"
#include "client/ticketed_rows.h"

namespace engram {
namespace {

constexpr uint32_t kStripesMax = 1024;

Status CheckOptions(const RemoteRowsOptions& options, const TableLayout& layout) {
  const auto bad = [](const std::string& name, uint64_t found, uint64_t low, uint64_t high) {
    return Status(StatusCode::kInvalidArgument, name + " is " + std::to_string(found) +
                                                    ": it must be " + std::to_string(low) + " to " +
                                                    std::to_string(high));
  };
  if (options.io_threads < 1 || options.io_threads > kIoThreadsMax) {
    return bad("io_threads", options.io_threads, 1, kIoThreadsMax);
  }
  if (options.read_rows_max < 1 || options.read_rows_max > kReadRowsMax) {
    return bad("read_rows_max", options.read_rows_max, 1, kReadRowsMax);
  }
  if (options.session_reads_max < 1 || options.session_reads_max > kReadsInFlightMax) {
    return bad("session_reads_max", options.session_reads_max, 1, kReadsInFlightMax);
  }
  constexpr uint32_t kBuffersMax = 256;
  if (options.staging_buffers < 1 || options.staging_buffers > kBuffersMax) {
    return bad("staging_buffers", options.staging_buffers, 1, kBuffersMax);
  }
  if (options.stripe.index >= options.stripe.count || options.stripe.count > kStripesMax) {
    return {StatusCode::kInvalidArgument, "stripe " + std::to_string(options.stripe.index) +
                                              " of " + std::to_string(options.stripe.count) +
                                              ": there are 1 to " + std::to_string(kStripesMax)};
  }
  if (options.landing != nullptr && (options.cache_bytes != 0 || options.stripe.count > 1)) {
    return {StatusCode::kInvalidArgument,
            "rows that land in a GPU's memory are neither kept in a row cache nor handed from rank "
            "to rank: cache_bytes must be 0, and the stripe whole"};
  }
  if (!options.hedging.Valid()) {
    return {StatusCode::kInvalidArgument,
            "hedging: late_min must be above zero and at most late_max, and burst_max and "
            "reads_per_hedge at most 1000"};
  }
  // Rows of all tickets of a thread are numbered by 32 bits (ReadScheduler), and so are their
  // places in a GPU's memory.
  const uint64_t rows_per_token =
      static_cast<uint64_t>(layout.layer_count()) * static_cast<uint64_t>(layout.column_count());
  const uint64_t tokens_max = (uint64_t{1} << 30) / rows_per_token / options.staging_buffers;
  if (options.batch_tokens_max < 1 || options.batch_tokens_max > tokens_max) {
    return bad("batch_tokens_max", options.batch_tokens_max, 1, tokens_max);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<RowSource>> CreateRemoteRows(const RemoteRowsOptions& options,
                                                    std::shared_ptr<Transport> transport,
                                                    std::shared_ptr<const NgramHasher> hasher,
                                                    std::shared_ptr<const TableLayout> layout,
                                                    std::shared_ptr<ShardMapSource> maps) {
  ENGRAM_TRY(CheckOptions(options, *layout));
  ENGRAM_TRY(maps->Current()->Validate(layout->slot_count()));
  // A thread without a column would have nothing to do.
  const uint32_t threads =
      std::min(options.io_threads, static_cast<uint32_t>(layout->column_count()));
  StagingRing::Options ring;
  ring.layer_count = layout->layer_count();
  ring.column_count = layout->column_count();
  ring.row_bytes = options.landing == nullptr ? layout->row_bytes() : kRowIdBytes;
  ring.tokens_max = options.batch_tokens_max;
  ring.history_max = static_cast<uint32_t>(layout->spec().hash.max_ngram_size - 1);
  ring.buffer_count = options.staging_buffers;
  ring.part_count = threads;
  ring.observer = options.staging_observer;
  std::shared_ptr<LandedRows> landed;  // outlives the fillers, as what is kept alive
  TicketedRows::Parts parts;
  std::vector<RemoteFiller*> fillers;
  ENGRAM_ASSIGN_OR_RETURN(parts.ring, StagingRing::Create(ring));
  RemoteFiller::Context context{.hasher = hasher.get(),
                                .layout = layout.get(),
                                .maps = maps.get(),
                                .ring = parts.ring.get(),
                                .part_count = threads};
  if (options.landing != nullptr) {
    // A place for every row of a part's share of the columns, of every batch at once.
    const uint32_t columns =
        (static_cast<uint32_t>(layout->column_count()) + threads - 1) / threads;
    context.part_places =
        options.batch_tokens_max * columns * static_cast<uint32_t>(layout->layer_count());
    ENGRAM_ASSIGN_OR_RETURN(
        landed, options.landing->MakeRows({context.part_places * threads * options.staging_buffers,
                                           layout->row_bytes(), threads}));
    context.landed = landed.get();
    parts.only_ids = true;
    parts.landed = landed->table();
  }
  for (uint32_t part = 0; part < threads; ++part) {
    context.part = part;
    ENGRAM_ASSIGN_OR_RETURN(auto filler, RemoteFiller::Create(options, context, transport.get()));
    fillers.push_back(filler.get());
    parts.fillers.push_back(std::move(filler));
  }
  parts.layout = std::move(layout);
  parts.hasher = std::move(hasher);
  parts.spin = options.spin;
  parts.stripe = options.stripe;
  parts.keep_alive = {std::move(transport), std::move(maps), std::move(landed)};
  auto rows = std::make_unique<TicketedRows>(std::move(parts));
  if (options.sessions_wait == Duration{}) return rows;
  const MonotonicTime until = SteadyClock().Now() + options.sessions_wait;
  for (RemoteFiller* const filler : fillers) {
    const Status open = filler->WaitForSessions(until);
    if (open.ok()) continue;
    if (open.code() == StatusCode::kWrongVersion) return Error(open);
    spdlog::warn("reading begins without {}", open.message());
    break;
  }
  return rows;
}

}  // namespace engram
