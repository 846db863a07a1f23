#include "model_worker/ranks/rank_rows.h"

#include <cstring>
#include <utility>

#include "engram/base/check.h"
#include "engram/base/clock.h"
#include "engram/hash/hash_spec.h"
#include "model_worker/collectives/agreement.h"

namespace engram {
namespace {

// How a rank fared; as wide as what keeps the rows after it aligned.
constexpr size_t kHeadBytes = 8;

ColumnStripe StripeOf(uint32_t rank, uint32_t rank_count) { return {rank, rank_count}; }

// Calls copy(offset in the layer, offset in the block, bytes) for each row of a stripe.
template <typename Copy>
void ForEachRow(const ColumnStripe& stripe, uint32_t tokens, uint32_t columns, size_t row_bytes,
                Copy copy) {
  size_t in_block = kHeadBytes;
  for (uint32_t token = 0; token < tokens; ++token) {
    for (uint32_t column = stripe.index; column < columns; column += stripe.count) {
      copy((size_t{token} * columns + column) * row_bytes, in_block, row_bytes);
      in_block += row_bytes;
    }
  }
}

}  // namespace

RankRows::RankRows(Collective* collective, std::vector<RowSource*> sources)
    : collective_(collective), sources_(std::move(sources)), blocks_(collective->rank_count()) {}

void RankRows::Must(const Status& status) {
  if (!status.ok()) collective_->Abort(status);
}

Status RankRows::Prefetch(Ticket ticket, uint32_t source, std::span<const TokenRun> runs,
                          const BatchOptions& options) {
  ENGRAM_CHECK(source < sources_.size() && sources_[source] != nullptr);
  const auto [at, is_new] = batches_.try_emplace(ticket.value());
  ENGRAM_CHECK(is_new);
  Batch& batch = at->second;
  batch.source = sources_[source];
  static_assert(kEngramLayersMax <= 64, "a bit for each layer");
  ENGRAM_CHECK(batch.source->layout().layer_count() <= kEngramLayersMax);
  batch.striped = options.striped;
  for (const TokenRun& run : runs) batch.token_count += static_cast<uint32_t>(run.tokens.size());
  auto own = batch.source->Prefetch(runs, options);
  if (!own.has_value()) {
    batch.refused = own.error();
    return std::move(own).error();
  }
  batch.own = *own;
  return {};
}

void RankRows::Release(Ticket ticket) {
  const auto at = batches_.find(ticket.value());
  if (at == batches_.end()) return;
  if (at->second.own != Ticket()) at->second.source->Release(at->second.own);
  batches_.erase(at);
}

Result<LayerRows> RankRows::Await(Ticket ticket, int32_t layer_index) {
  const auto at = batches_.find(ticket.value());
  ENGRAM_CHECK(at != batches_.end() && layer_index >= 0 && layer_index < kEngramLayersMax);
  Batch& batch = at->second;
  Result<LayerRows> rows = batch.own != Ticket() ? batch.source->Await(batch.own, layer_index)
                                                 : Result<LayerRows>(Error(batch.refused));
  const uint64_t layer_bit = uint64_t{1} << layer_index;
  if ((batch.layers_together & layer_bit) != 0) return rows;
  const MonotonicTime began = SteadyClock().Now();
  const Status together = Exchange(batch, rows.has_value() ? Status() : rows.error(),
                                   rows.has_value() ? *rows : LayerRows());
  gather_ns_ += static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(SteadyClock().Now() - began).count());
  if (!together.ok()) {
    failure_ = together;
    return Error(together);
  }
  batch.layers_together |= layer_bit;
  return rows;
}

size_t RankRows::BlockBytes(const Batch& batch, uint32_t rank) const {
  if (!batch.striped) return 0;
  const TableLayout& layout = batch.source->layout();
  return size_t{batch.token_count} *
         StripeOf(rank, collective_->rank_count())
             .columns(static_cast<uint32_t>(layout.column_count())) *
         layout.row_bytes();
}

void RankRows::PackOwn(const Batch& batch, const LayerRows& rows) {
  const TableLayout& layout = batch.source->layout();
  const uint32_t rank = collective_->rank();
  std::byte* const block = blocks_[rank].data();
  ForEachRow(StripeOf(rank, collective_->rank_count()), batch.token_count,
             static_cast<uint32_t>(layout.column_count()), layout.row_bytes(),
             [&](size_t in_layer, size_t in_block, size_t bytes) {
               std::memcpy(block + in_block, rows.rows.data() + in_layer, bytes);
             });
}

void RankRows::UnpackOthers(const Batch& batch, const LayerRows& rows) {
  const TableLayout& layout = batch.source->layout();
  for (uint32_t rank = 0; rank < collective_->rank_count(); ++rank) {
    if (rank == collective_->rank()) continue;
    const std::byte* const block = blocks_[rank].data();
    ForEachRow(StripeOf(rank, collective_->rank_count()), batch.token_count,
               static_cast<uint32_t>(layout.column_count()), layout.row_bytes(),
               [&](size_t in_layer, size_t in_block, size_t bytes) {
                 std::memcpy(rows.others.data() + in_layer, block + in_block, bytes);
               });
  }
  gathered_rows_ += uint64_t{batch.token_count} * static_cast<uint64_t>(layout.column_count());
}

Status RankRows::Exchange(const Batch& batch, const Status& mine, const LayerRows& rows) {
  std::vector<std::span<std::byte>> spans;
  for (uint32_t rank = 0; rank < blocks_.size(); ++rank) {
    const size_t bytes = kHeadBytes + BlockBytes(batch, rank);
    if (blocks_[rank].size() < bytes) blocks_[rank].resize(bytes);
    spans.push_back(std::span(blocks_[rank]).first(bytes));
  }
  spans[collective_->rank()][0] = static_cast<std::byte>(mine.code());
  if (batch.striped && mine.ok()) {
    ENGRAM_CHECK(rows.token_count == batch.token_count && rows.others.data() != nullptr &&
                 !rows.only_ids);
    PackOwn(batch, rows);
  }
  Must(collective_->AllGather(spans));
  std::vector<StatusCode> codes;
  bool all_ok = true;
  for (const std::span<std::byte> span : spans) {
    codes.push_back(static_cast<StatusCode>(span[0]));
    all_ok = all_ok && codes.back() == StatusCode::kOk;
  }
  if (!all_ok) {
    Status failure;
    Must(TellFailure(collective_, codes, mine, &failure));
    return failure;
  }
  if (batch.striped) UnpackOthers(batch, rows);
  return {};
}

}  // namespace engram
