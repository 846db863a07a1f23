#include "client/remote_filler.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "engram/base/check.h"
#include "engram/table/stored_row.h"

namespace engram {
namespace {

// Timers are looked at this often while rows keep the thread from sleeping.
constexpr Duration kTickInterval = std::chrono::milliseconds(1);
constexpr Duration kSleepMax = std::chrono::seconds(10);
// Rows whose place in the staging buffer is asked for ahead of the copy: a column's rows lie a
// whole token apart, which the processor does not guess.
constexpr size_t kScatterAheadRows = 4;

}  // namespace

RemoteFiller::RemoteFiller(const RemoteRowsOptions& options, const Context& context)
    : options_(options),
      context_(context),
      row_bytes_(context.layout->row_bytes()),
      row_stride_(context.layout->row_stride()),
      token_stride_bytes_(static_cast<uint32_t>(context.layout->column_count()) * row_bytes_),
      dedupe_(options.batch_tokens_max),
      cache_(options.cache_bytes / context.part_count, row_bytes_),
      batches_(options.staging_buffers) {
  cache_.Reset(options.version);
  gauges_.version = options.version.value();
  gauges_.cache_bytes = cache_.bytes_used();
  gauges_.cache_rows_max = cache_.rows_max();
  for (Batch& batch : batches_) {
    batch.plan = std::make_unique<ReadPlan>(
        context.hasher, context.layout, options.batch_tokens_max, context.part, context.part_count);
  }
}

Result<std::unique_ptr<RowFiller>> RemoteFiller::Create(const RemoteRowsOptions& options,
                                                        const Context& context,
                                                        Transport* transport) {
  auto filler = std::unique_ptr<RemoteFiller>(new RemoteFiller(options, context));
  ENGRAM_ASSIGN_OR_RETURN(auto reader, transport->CreateReader(filler.get()));
  filler->Start(std::move(reader));
  return filler;
}

void RemoteFiller::Start(std::unique_ptr<RowReader> reader) {
  reader_ = std::move(reader);
  SchedulerOptions scheduler;
  NodeTarget& target = scheduler.sessions.target;
  target.version = options_.version;
  target.identity = options_.identity;
  target.row_stride = row_stride_;
  target.slot_shift = context_.layout->slot_shift();
  target.slot_count = context_.layout->slot_count();
  scheduler.sessions.reads_in_flight_max = options_.session_reads_max;
  scheduler.sessions.seed = std::random_device{}();
  scheduler.slot_count = options_.staging_buffers;
  scheduler.rows_max = batches_[0].plan->rows_max();
  scheduler.layer_count = context_.layout->layer_count();
  scheduler.read_rows_max = options_.read_rows_max;
  scheduler.read_silence_max = options_.read_silence_max;
  scheduler.zone = options_.zone;
  scheduler.hedging = options_.hedging;
  scheduler_ = std::make_unique<ReadScheduler>(scheduler, context_.layout, reader_.get(),
                                               static_cast<ScheduledRows*>(this));
  subscription_ = context_.maps->Subscribe([this] {
    map_changed_.store(true, std::memory_order_release);
    reader_->Wake();
  });
}

RemoteFiller::~RemoteFiller() {
  if (subscription_ != 0) context_.maps->Unsubscribe(subscription_);
}

// ---- batches

void RemoteFiller::Begin(StagingBuffer& buffer) {
  Batch& batch = batches_[buffer.index];
  ENGRAM_CHECK(batch.buffer == nullptr);
  const int32_t layer_count = context_.layout->layer_count();
  batch.buffer = &buffer;
  batch.layers_left = layer_count;
  batch.plan->Start(buffer.token_count);
  scheduler_->Begin(buffer.index, SteadyClock().Now(), buffer.deadline);
  const uint64_t rows = uint64_t{buffer.token_count} *
                        static_cast<uint64_t>(context_.layout->column_count()) *
                        static_cast<uint64_t>(layer_count);
  const bool merged = rows <= options_.merged_rows_max;
  uint32_t row = 0;
  for (int32_t layer = 0; layer < layer_count; ++layer) {
    Enter(FillStage::kHash);
    batch.plan->HashLayer(layer, buffer.runs);
    StagingRing::NoteIdsKnown(buffer, layer, SteadyClock().Now());
    Enter(FillStage::kPlan);
    batch.plan->FindUnique(layer, buffer.dead, &dedupe_);
    FillCounters::Add(counters_.rows_unique, batch.plan->row_count(layer));
    if (cache_.rows_max() != 0) TakeFromCache(batch, layer);
    const uint32_t end = row + batch.plan->row_count(layer);
    Enter(FillStage::kPost);
    // May finish the layer, and with the last one the batch, when no row is left to read.
    scheduler_->AddRows(buffer.index, layer, batch.plan->addresses(), row, end);
    row = end;
    if (!merged) {
      scheduler_->Pump(SteadyClock().Now());
      if (layer + 1 < layer_count) {  // send while the next is hashed
        Enter(FillStage::kWire);
        (void)reader_->Progress();
      }
    }
  }
  if (merged) scheduler_->Pump(SteadyClock().Now());
  Enter(FillStage::kOther);
}

void RemoteFiller::TakeFromCache(Batch& batch, int32_t layer_index) {
  ReadPlan& plan = *batch.plan;
  const uint32_t end = plan.first_row(layer_index) + plan.row_count(layer_index);
  uint64_t found = 0;
  plan.RemoveRows(layer_index, [&](uint32_t row) {
    constexpr uint32_t kAhead = 8;
    if (row + kAhead < end) cache_.Prefetch(plan.addresses()[row + kAhead]);
    const std::byte* bytes = cache_.Find(plan.addresses()[row]);
    if (bytes == nullptr) return false;
    Scatter(batch, row, bytes);
    ++found;
    return true;
  });
  FillCounters::Add(counters_.rows_from_cache, found);
}

std::byte* RemoteFiller::ColumnOf(const Batch& batch, const RowTargets& targets) const {
  return batch.buffer->rows(targets.layer_index) + size_t{targets.column} * row_bytes_;
}

void RemoteFiller::PrefetchTarget(const Batch& batch, uint32_t row) const {
  const RowTargets& targets = batch.plan->targets(row);
  const std::byte* const target =
      ColumnOf(batch, targets) + size_t{targets.first_token} * token_stride_bytes_;
  for (uint32_t line = 0; line < row_bytes_; line += 64) __builtin_prefetch(target + line, 1);
}

void RemoteFiller::Scatter(const Batch& batch, uint32_t row, const std::byte* bytes) const {
  std::byte* const column = ColumnOf(batch, batch.plan->targets(row));
  batch.plan->ForEachToken(row, [&](uint32_t token) {
    std::memcpy(column + size_t{token} * token_stride_bytes_, bytes, row_bytes_);
  });
}

void RemoteFiller::Abandon(StagingBuffer& buffer) {
  Batch& batch = batches_[buffer.index];
  if (batch.buffer == nullptr) return;
  scheduler_->End(buffer.index);
  batch.buffer = nullptr;
  context_.ring->DropPart(buffer);
}

bool RemoteFiller::Progress() {
  bool worked = false;
  if (map_changed_.exchange(false, std::memory_order_acq_rel)) {
    scheduler_->SetMap(context_.maps->Current(), SteadyClock().Now());
    gauges_.epoch.store(scheduler_->sessions().epoch().value(), std::memory_order_relaxed);
    worked = true;
  }
  Enter(FillStage::kWire);
  worked = reader_->Progress() || worked;
  Enter(FillStage::kPost);
  const MonotonicTime now = SteadyClock().Now();
  if (now >= next_tick_ || now - last_tick_ >= kTickInterval) {
    scheduler_->Tick(now);
    last_tick_ = now;
    next_tick_ = scheduler_->NextTick();
  } else if (worked) {
    scheduler_->Pump(now);
  }
  Enter(FillStage::kOther);
  return worked;
}

void RemoteFiller::Wait() {
  next_tick_ = scheduler_->NextTick();
  const MonotonicTime now = SteadyClock().Now();
  if (next_tick_ > now && !map_changed_.load(std::memory_order_acquire)) {
    Enter(FillStage::kAsleep);
    reader_->Wait(std::min(next_tick_, now + kSleepMax));
    Enter(FillStage::kOther);
  }
}

// ---- ReaderEvents

void RemoteFiller::OnOpen(SessionId session, const SessionInfo& info) {
  scheduler_->OnOpen(session, info, SteadyClock().Now());
  open_sessions_[session] = info.way;
  CountSessions();
}
void RemoteFiller::OnClosed(SessionId session, const Status& why) {
  scheduler_->OnClosed(session, why, SteadyClock().Now());
  open_sessions_.erase(session);
  CountSessions();
}
void RemoteFiller::CountSessions() {
  std::array<uint64_t, kReadWayCount> sessions{};
  for (const auto& [session, way] : open_sessions_) ++sessions[static_cast<size_t>(way)];
  for (size_t way = 0; way < sessions.size(); ++way) {
    gauges_.sessions[way].store(sessions[way], std::memory_order_relaxed);
  }
}
void RemoteFiller::OnRows(uint64_t tag, const RowChunk& chunk) {
  Enter(FillStage::kTrack);
  scheduler_->OnRows(tag, chunk, SteadyClock().Now());
  Enter(FillStage::kWire);
}
void RemoteFiller::OnReadDone(uint64_t tag, StatusCode status) {
  FillCounters::Add(counters_.reads, 1);
  Enter(FillStage::kTrack);
  scheduler_->OnReadDone(tag, status, SteadyClock().Now());
  Enter(FillStage::kWire);
}
void RemoteFiller::OnEpoch(SessionId /*session*/, Epoch newest) { scheduler_->OnEpoch(newest); }

// ---- ScheduledRows

void RemoteFiller::TakeRows(uint32_t slot, std::span<const uint32_t> rows, const std::byte* stored,
                            uint8_t* taken) {
  const Batch& batch = batches_[slot];
  const ReadPlan& plan = *batch.plan;
  const std::vector<int32_t>& layer_ids = context_.layout->spec().hash.layer_ids;
  const bool cached = cache_.rows_max() != 0;
  uint64_t came = 0;
  uint64_t right = 0;
  const auto prefetch = [&](size_t i) {
    if (i < rows.size() && rows[i] != kNoRow) PrefetchTarget(batch, rows[i]);
  };
  for (size_t i = 0; i < kScatterAheadRows; ++i) prefetch(i);
  for (size_t i = 0; i < rows.size(); ++i) {
    prefetch(i + kScatterAheadRows);
    const uint32_t row = rows[i];
    if (row == kNoRow) continue;
    ++came;
    const std::byte* bytes = stored + i * row_stride_;
    Enter(FillStage::kVerify);
    const int32_t layer_id = layer_ids[plan.targets(row).layer_index];
    const bool ok = VerifyRow(options_.version, layer_id, plan.row_id(row), bytes, row_bytes_);
    taken[i] = ok ? 1 : 0;
    if (!ok) continue;
    ++right;
    Enter(FillStage::kScatter);
    Scatter(batch, row, bytes);
    if (cached) cache_.Insert(plan.addresses()[row], bytes);
  }
  Enter(FillStage::kTrack);
  FillCounters::Add(counters_.rows_read, came);
  FillCounters::Add(counters_.rows_verified, right);
  FillCounters::Add(counters_.rows_wrong, came - right);
  FillCounters::Add(counters_.bytes_read, came * row_stride_);
  if (cached) gauges_.cache_rows.store(cache_.rows(), std::memory_order_relaxed);
}

void RemoteFiller::OnLayerDone(uint32_t slot, int32_t layer_index, const Status& status,
                               uint64_t rows_failed) {
  Batch& batch = batches_[slot];
  if (rows_failed != 0) FillCounters::Add(counters_.rows_failed, rows_failed);
  StagingBuffer& buffer = *batch.buffer;
  StagingRing::FinishPart(buffer, layer_index, SteadyClock().Now(), status);
  if (--batch.layers_left > 0) return;
  batch.buffer = nullptr;
  context_.ring->DropPart(buffer);
}

void RemoteFiller::OnRowWrong(SlotIndex table_slot, const ShardMapNode& node) {
  context_.maps->ReportSlot(table_slot, node);
}
void RemoteFiller::OnReadRetried() { FillCounters::Add(counters_.reads_retried, 1); }
void RemoteFiller::OnReadHedged() { FillCounters::Add(counters_.reads_hedged, 1); }
void RemoteFiller::OnHedgeWon() { FillCounters::Add(counters_.hedges_won, 1); }
void RemoteFiller::OnMapWanted() { context_.maps->WantNewer(); }

}  // namespace engram
