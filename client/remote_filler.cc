#include "client/remote_filler.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <utility>

#include "engram/base/check.h"
#include "engram/table/stored_row.h"

namespace engram {
namespace {

// Timers are looked at this often while rows keep the thread from sleeping.
constexpr Duration kTickInterval = std::chrono::milliseconds(1);
constexpr Duration kSleepMax = std::chrono::seconds(10);
// A batch yields to a smaller one for at most this long: that one may be waiting for a lost node.
constexpr Duration kYieldMax = std::chrono::milliseconds(5);
// Answers of up to this are one piece over TCP, which is checked where it was received, without one
// more copy (docs/decisions/0025-eager-replies.md).
constexpr uint32_t kReadBytesMax = 240u << 10;
// Rows whose place in the staging buffer is asked for ahead of the copy: a column's rows lie a
// whole token apart, which the processor does not guess. Also the rows that are verified together.
constexpr size_t kScatterAheadRows = 8;
constexpr size_t kCacheAheadNgrams = 8;

// Rows of one n-gram that a part has, at most: heads are columns side by side.
uint32_t NgramRowsMax(const RemoteFiller::Context& context) {
  const auto heads = static_cast<uint32_t>(context.layout->spec().hash.head_count);
  return (heads + context.part_count - 1) / context.part_count;
}

}  // namespace

RemoteFiller::RemoteFiller(const RemoteRowsOptions& options, const Context& context)
    : options_(options),
      context_(context),
      row_bytes_(context.layout->row_bytes()),
      row_stride_(context.layout->row_stride()),
      staged_bytes_(context.landed == nullptr ? row_bytes_ : kRowIdBytes),
      token_stride_bytes_(static_cast<uint32_t>(context.layout->column_count()) * staged_bytes_),
      scratch_(*context.layout, options.batch_tokens_max),
      cache_(options.cache_bytes / context.part_count, row_bytes_, NgramRowsMax(context)),
      batches_(options.staging_buffers),
      sessions_open_(StatusCode::kUnavailable, "there is no shard map yet") {
  yielded_.reserve(options.staging_buffers);
  gauges_.version = options.version.value();
  gauges_.cache_bytes = cache_.bytes_used();
  gauges_.cache_rows_max = cache_.ngrams_max() * NgramRowsMax(context);
  if (cache_.ngrams_max() != 0) found_.reserve(options.batch_tokens_max);
  if (context.landed != nullptr) {
    coming_.reserve(kReadRowsMax);
    coming_right_.resize(kReadRowsMax);
  }
  for (Batch& batch : batches_) {
    const auto plan = [&](uint32_t part, uint32_t part_count) {
      return std::make_unique<ReadPlan>(context.hasher, context.layout, options.batch_tokens_max,
                                        part, part_count);
    };
    const ColumnStripe& stripe = options.stripe;
    batch.whole = plan(context.part, context.part_count);
    if (stripe.count > 1) {
      // The threads divide the stripe's columns as they do all.
      batch.striped =
          plan(stripe.index + stripe.count * context.part, stripe.count * context.part_count);
    }
    batch.wanted_begin.resize(static_cast<size_t>(context.layout->layer_count()) + 1);
    if (cache_.ngrams_max() != 0) {
      batch.wanted.reserve(size_t{options.batch_tokens_max} * batch.whole->order_count() *
                           static_cast<size_t>(context.layout->layer_count()));
    }
  }
}

Result<std::unique_ptr<RemoteFiller>> RemoteFiller::Create(const RemoteRowsOptions& options,
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
  scheduler.rows_max = batches_[0].whole->rows_max();
  scheduler.layer_count = context_.layout->layer_count();
  scheduler.read_rows_max = std::clamp(kReadBytesMax / row_stride_, 1u, options_.read_rows_max);
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

Status RemoteFiller::WaitForSessions(MonotonicTime until) {
  std::unique_lock lock(sessions_mutex_);
  sessions_changed_.wait_until(lock, until, [this] { return sessions_open_.ok(); });
  return sessions_open_;
}

// ---- batches

void RemoteFiller::Begin(StagingBuffer& buffer) {
  Batch& batch = batches_[buffer.index];
  ENGRAM_CHECK(batch.buffer == nullptr);
  batch.buffer = &buffer;
  batch.layers_left = context_.layout->layer_count();
  batch.landing_failure = {};
  batch.yields = SmallerIsRead(batch);
  if (!batch.yields) return Read(batch);
  batch.begin_by = SteadyClock().Now() + kYieldMax;
  yielded_.push_back(buffer.index);
}

bool RemoteFiller::SmallerIsRead(const Batch& batch) const {
  return std::any_of(batches_.begin(), batches_.end(), [&](const Batch& other) {
    return other.buffer != nullptr && !other.yields &&
           uint64_t{other.buffer->token_count} * 2 <= batch.buffer->token_count;
  });
}

bool RemoteFiller::ReadYielded(MonotonicTime now) {
  if (yielded_.empty()) return false;
  Batch& batch = batches_[yielded_.front()];
  if (now < batch.begin_by && SmallerIsRead(batch)) return false;
  yielded_.erase(yielded_.begin());
  batch.yields = false;
  Read(batch);
  return true;
}

void RemoteFiller::Read(Batch& batch) {
  StagingBuffer& buffer = *batch.buffer;
  const int32_t layer_count = context_.layout->layer_count();
  batch.plan = buffer.striped && batch.striped != nullptr ? batch.striped.get() : batch.whole.get();
  ReadPlan& plan = *batch.plan;
  plan.Start(buffer.token_count);
  batch.wanted.clear();
  scheduler_->Begin(buffer.index, SteadyClock().Now(), buffer.deadline);
  const uint64_t rows = uint64_t{buffer.token_count} *
                        static_cast<uint64_t>(context_.layout->column_count()) *
                        static_cast<uint64_t>(layer_count);
  const bool merged = rows <= options_.merged_rows_max;
  uint32_t row = 0;
  for (int32_t layer = 0; layer < layer_count; ++layer) {
    Enter(FillStage::kHash);
    plan.Mix(layer, buffer.runs, &scratch_);
    Enter(FillStage::kPlan);
    FillCounters::Add(counters_.rows_unique, plan.FindNgrams(layer, buffer.dead, &scratch_));
    if (cache_.ngrams_max() != 0) TakeFromCache(batch, layer);
    Enter(FillStage::kHash);
    plan.AddRows(layer, &scratch_);
    StagingRing::NoteIdsKnown(buffer, layer, SteadyClock().Now());
    const uint32_t end = row + plan.row_count(layer);
    Enter(FillStage::kPost);
    // May finish the layer, and with the last one the batch, when no row is left to read.
    scheduler_->AddRows(buffer.index, layer, plan.addresses(), row, end);
    row = end;
    if (!merged) {
      scheduler_->Pump(SteadyClock().Now());
      if (layer + 1 < layer_count) {  // send while the next is hashed
        Enter(FillStage::kWire);
        progress_began_ = SteadyClock().Now();
        (void)reader_->Progress();
      }
    }
  }
  if (merged) scheduler_->Pump(SteadyClock().Now());
  Enter(FillStage::kOther);
}

// Inlined with what it reads in registers: rows are stored in between, which for all the compiler
// knows might be this object.
struct RemoteFiller::Scatterer {
  Scatterer(const RemoteFiller& filler, const Batch& batch)
      : plan(*batch.plan),
        buffer(*batch.buffer),
        row_bytes(filler.staged_bytes_),
        token_stride_bytes(filler.token_stride_bytes_) {}

  // Asks for the row's first place.
  void Prefetch(uint32_t row) const {
    const RowTargets& targets = plan.targets(row);
    const std::byte* const target =
        ColumnOf(targets) + size_t{targets.first_token} * token_stride_bytes;
    for (uint32_t line = 0; line < row_bytes; line += 64) __builtin_prefetch(target + line, 1);
  }
  void Scatter(uint32_t row, const std::byte* bytes) const {
    std::byte* const column = ColumnOf(plan.targets(row));
    plan.ForEachToken(row, [&](uint32_t token) {
      std::memcpy(column + size_t{token} * token_stride_bytes, bytes, row_bytes);
    });
  }
  // Asks for an n-gram's rows and their first place.
  void PrefetchNgram(uint32_t layer_index, uint32_t order, uint32_t first_token,
                     const std::byte* rows) const {
    const std::span<const uint16_t> columns = plan.columns(order);
    const std::byte* const target = buffer.rows(static_cast<int32_t>(layer_index)) +
                                    size_t{first_token} * token_stride_bytes +
                                    columns.front() * row_bytes;
    for (size_t at = 0; at < columns.size() * row_bytes; at += 64) {
      __builtin_prefetch(rows + at);
      __builtin_prefetch(target + at, 1);
    }
  }
  // `rows` [columns of the order][row_bytes].
  void ScatterNgram(uint32_t layer_index, uint32_t order, uint32_t first_token,
                    const std::byte* rows) const {
    const std::span<const uint16_t> columns = plan.columns(order);
    std::byte* const layer = buffer.rows(static_cast<int32_t>(layer_index));
    // Rows of columns side by side are copied as one.
    const bool side_by_side = columns.back() - columns.front() + size_t{1} == columns.size();
    const size_t piece = side_by_side ? columns.size() : 1;
    plan.ForEachToken(layer_index, order, first_token, [&](uint32_t token) {
      std::byte* const row = layer + size_t{token} * token_stride_bytes;
      for (size_t i = 0; i < columns.size(); i += piece) {
        std::memcpy(row + columns[i] * row_bytes, rows + i * row_bytes, piece * row_bytes);
      }
    });
  }

 private:
  [[nodiscard]] std::byte* ColumnOf(const RowTargets& targets) const {
    return buffer.rows(targets.layer_index) + size_t{targets.column} * row_bytes;
  }

  const ReadPlan& plan;
  const StagingBuffer& buffer;
  const size_t row_bytes;
  const size_t token_stride_bytes;
};

void RemoteFiller::TakeFromCache(Batch& batch, int32_t layer_index) {
  const ReadPlan& plan = *batch.plan;
  const auto layer = static_cast<uint32_t>(layer_index);
  const Scatterer scatterer(*this, batch);
  uint64_t rows_found = 0;
  for (uint32_t order = 0; order < plan.order_count(); ++order) {
    const std::span<const PlannedNgram> ngrams = ReadPlan::ngrams(scratch_, order);
    // What a striped batch has of an n-gram is not what another has.
    const uint32_t tables = static_cast<uint32_t>(context_.layout->layer_count());
    const uint32_t table =
        (layer + (batch.plan == batch.striped.get() ? tables : 0)) * plan.order_count() + order;
    for (const PlannedNgram& ngram : ngrams.first(std::min(kCacheAheadNgrams, ngrams.size()))) {
      cache_.Prefetch({ngram.mix, table});
    }
    size_t ahead = kCacheAheadNgrams;
    found_.clear();
    ReadPlan::RemoveNgrams(order, &scratch_, [&](const PlannedNgram& ngram) {
      if (ahead < ngrams.size()) cache_.Prefetch({ngrams[ahead].mix, table});
      ++ahead;
      const NgramKey key{ngram.mix, table};
      const std::byte* const rows = cache_.Find(key);
      if (rows != nullptr) {
        found_.push_back({ngram.first_token, rows});
        return true;
      }
      if (cache_.Admits(key)) batch.wanted.push_back({key, order, ngram.first_token});
      return false;
    });
    // Both ends of a copy are far from the processor: the next one's are on their way meanwhile.
    for (size_t i = 0; i < found_.size(); ++i) {
      if (i + 1 < found_.size()) {
        scatterer.PrefetchNgram(layer, order, found_[i + 1].first_token, found_[i + 1].rows);
      }
      scatterer.ScatterNgram(layer, order, found_[i].first_token, found_[i].rows);
    }
    rows_found += found_.size() * plan.columns(order).size();
  }
  batch.wanted_begin[layer + 1] = static_cast<uint32_t>(batch.wanted.size());
  FillCounters::Add(counters_.rows_from_cache, rows_found);
}

// From the staging buffer, where all rows of an n-gram are side by side, before anybody else sees
// it.
void RemoteFiller::PutIntoCache(const Batch& batch, int32_t layer_index) {
  const auto layer = static_cast<size_t>(layer_index);
  const std::span wanted(batch.wanted);
  for (size_t i = batch.wanted_begin[layer]; i < batch.wanted_begin[layer + 1]; ++i) {
    const WantedNgram& ngram = wanted[i];
    std::byte* out = cache_.Insert(ngram.key);
    if (out == nullptr) continue;
    const std::byte* const token =
        batch.buffer->rows(layer_index) + size_t{ngram.first_token} * token_stride_bytes_;
    for (const uint16_t column : batch.plan->columns(ngram.order)) {
      std::memcpy(out, token + size_t{column} * row_bytes_, row_bytes_);
      out += row_bytes_;
    }
  }
  gauges_.cache_rows.store(cache_.ngrams() * NgramRowsMax(context_), std::memory_order_relaxed);
}

void RemoteFiller::Abandon(StagingBuffer& buffer) {
  Batch& batch = batches_[buffer.index];
  if (batch.buffer == nullptr) return;
  if (std::exchange(batch.yields, false)) std::erase(yielded_, buffer.index);
  scheduler_->End(buffer.index);
  batch.buffer = nullptr;
  context_.ring->DropPart(buffer);
}

bool RemoteFiller::Progress() {
  bool worked = false;
  if (map_changed_.exchange(false, std::memory_order_acq_rel)) {
    scheduler_->SetMap(context_.maps->Current(), SteadyClock().Now());
    gauges_.epoch.store(scheduler_->sessions().epoch().value(), std::memory_order_relaxed);
    NoteSessions();
    worked = true;
  }
  progress_began_ = SteadyClock().Now();
  // Before the reader: who helps until a batch is there does not plan the next one too.
  worked = ReadYielded(progress_began_) || worked;
  Enter(FillStage::kWire);
  worked = reader_->Progress() || worked;
  Enter(FillStage::kPost);
  const MonotonicTime now = SteadyClock().Now();
  if (now >= next_tick_ || now - last_tick_ >= kTickInterval) {
    scheduler_->Tick(now);
    last_tick_ = now;
    next_tick_ = NextTick();
  } else if (worked) {
    scheduler_->Pump(now);
  }
  Enter(FillStage::kOther);
  return worked;
}

MonotonicTime RemoteFiller::NextTick() const {
  const MonotonicTime next = scheduler_->NextTick();
  if (yielded_.empty()) return next;
  const Batch& batch = batches_[yielded_.front()];
  return SmallerIsRead(batch) ? std::min(next, batch.begin_by) : MonotonicTime::min();
}

void RemoteFiller::Wait(std::unique_lock<std::mutex>& driving) {
  next_tick_ = NextTick();
  const MonotonicTime now = SteadyClock().Now();
  if (next_tick_ > now && !map_changed_.load(std::memory_order_acquire)) {
    Enter(FillStage::kAsleep);
    reader_->Wait(std::min(next_tick_, now + kSleepMax), &driving);
    Enter(FillStage::kOther);
  }
}

bool RemoteFiller::GiveBack() {
  next_tick_ = NextTick();
  const MonotonicTime now = SteadyClock().Now();
  const bool asleep = reader_->GiveBack(std::min(next_tick_, now + kSleepMax)) &&
                      next_tick_ > now && !map_changed_.load(std::memory_order_acquire);
  Enter(FillStage::kAsleep);
  return asleep;
}

// ---- ReaderEvents

void RemoteFiller::OnOpen(SessionId session, const SessionInfo& info) {
  scheduler_->OnOpen(session, info, SteadyClock().Now());
  open_sessions_[session] = info.way;
  NoteSessions();
}
void RemoteFiller::OnClosed(SessionId session, const Status& why) {
  scheduler_->OnClosed(session, why, SteadyClock().Now());
  open_sessions_.erase(session);
  NoteSessions();
}
void RemoteFiller::NoteSessions() {
  std::array<uint64_t, kReadWayCount> sessions{};
  for (const auto& [session, way] : open_sessions_) ++sessions[static_cast<size_t>(way)];
  for (size_t way = 0; way < sessions.size(); ++way) {
    gauges_.sessions[way].store(sessions[way], std::memory_order_relaxed);
  }
  Status open = scheduler_->sessions().AllOpen();
  const std::lock_guard lock(sessions_mutex_);
  sessions_open_ = std::move(open);
  if (sessions_open_.ok()) sessions_changed_.notify_all();
}
void RemoteFiller::OnRows(uint64_t tag, const RowChunk& chunk) {
  Enter(FillStage::kTrack);
  chunk_landed_ = chunk.landed;
  // Rows may come by the handful, too few to ask the time for each.
  scheduler_->OnRows(tag, chunk, progress_began_);
  Enter(FillStage::kWire);
}
void RemoteFiller::OnReadDone(uint64_t tag, StatusCode status) {
  FillCounters::Add(counters_.reads, 1);
  Enter(FillStage::kTrack);
  scheduler_->OnReadDone(tag, status, SteadyClock().Now());
  Enter(FillStage::kWire);
}
void RemoteFiller::OnEpoch(SessionId /*session*/, Epoch newest) { scheduler_->OnEpoch(newest); }
void RemoteFiller::OnBusy(SessionId session, Duration retry_after) {
  scheduler_->OnBusy(session, retry_after, SteadyClock().Now());
}

// ---- ScheduledRows

void RemoteFiller::TakeRows(uint32_t slot, std::span<const uint32_t> rows, const std::byte* stored,
                            uint8_t* taken) {
  Batch& batch = batches_[slot];
  if (context_.landed != nullptr) return LandRows(batch, rows, stored, taken);
  const ReadPlan& plan = *batch.plan;
  const std::vector<int32_t>& layer_ids = context_.layout->spec().hash.layer_ids;
  const Scatterer scatterer(*this, batch);
  uint64_t came = 0;
  uint64_t right = 0;
  const auto prefetch = [&](size_t i) {
    if (i < rows.size() && rows[i] != kNoRow) scatterer.Prefetch(rows[i]);
  };
  for (size_t i = 0; i < kScatterAheadRows; ++i) prefetch(i);
  PlacedRow group[kScatterAheadRows];
  size_t places[kScatterAheadRows];  // in `rows`
  uint8_t group_right[kScatterAheadRows];
  for (size_t first = 0; first < rows.size(); first += kScatterAheadRows) {
    size_t count = 0;
    for (size_t i = first; i < std::min(rows.size(), first + kScatterAheadRows); ++i) {
      prefetch(i + kScatterAheadRows);
      if (rows[i] == kNoRow) continue;
      places[count] = i;
      group[count++] = {layer_ids[plan.targets(rows[i]).layer_index], plan.row_id(rows[i]),
                        stored + i * row_stride_};
    }
    Enter(FillStage::kVerify);
    VerifyRows(options_.version, std::span(group, count), row_bytes_, group_right);
    came += count;
    Enter(FillStage::kScatter);
    for (size_t k = 0; k < count; ++k) {
      taken[places[k]] = group_right[k];
      if (group_right[k] == 0) continue;
      ++right;
      scatterer.Scatter(rows[places[k]], group[k].stored);
    }
  }
  CountRows(came, right);
}

void RemoteFiller::LandRows(Batch& batch, std::span<const uint32_t> rows, const std::byte* stored,
                            uint8_t* taken) {
  const ReadPlan& plan = *batch.plan;
  const std::vector<int32_t>& layer_ids = context_.layout->spec().hash.layer_ids;
  const uint32_t first_place =
      (batch.buffer->index * context_.part_count + context_.part) * context_.part_places;
  Enter(FillStage::kVerify);
  coming_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] == kNoRow) continue;
    coming_.push_back(
        {.crc_of_place = RowPlaceCrc(options_.version, layer_ids[plan.targets(rows[i]).layer_index],
                                     plan.row_id(rows[i])),
         .from = static_cast<uint32_t>(i),
         .place = first_place + rows[i]});
  }
  if (coming_.empty()) return;
  const Status kept =
      context_.landed->Keep(context_.part, stored, chunk_landed_, coming_, coming_right_.data());
  if (!kept.ok()) {
    // The GPU's fault, not the node's: nothing is reported or asked again, and OnLayerDone says it.
    if (batch.landing_failure.ok()) batch.landing_failure = kept;
    for (const LandedRows::Row& row : coming_) taken[row.from] = 1;
    return;
  }
  Enter(FillStage::kScatter);
  const Scatterer scatterer(*this, batch);
  uint64_t right = 0;
  for (size_t i = 0; i < coming_.size(); ++i) {
    const LandedRows::Row& row = coming_[i];
    taken[row.from] = coming_right_[i];
    if (coming_right_[i] == 0) continue;
    ++right;
    scatterer.Scatter(rows[row.from], reinterpret_cast<const std::byte*>(&row.place));
  }
  if (chunk_landed_) FillCounters::Add(counters_.rows_landed, coming_.size());
  CountRows(coming_.size(), right);
}

void RemoteFiller::CountRows(uint64_t came, uint64_t right) {
  Enter(FillStage::kTrack);
  FillCounters::Add(counters_.rows_read, came);
  FillCounters::Add(counters_.rows_verified, right);
  FillCounters::Add(counters_.rows_wrong, came - right);
  FillCounters::Add(counters_.bytes_read, came * row_stride_);
}

void RemoteFiller::OnLayerDone(uint32_t slot, int32_t layer_index, const Status& status,
                               uint64_t rows_failed) {
  Batch& batch = batches_[slot];
  if (rows_failed != 0) FillCounters::Add(counters_.rows_failed, rows_failed);
  StagingBuffer& buffer = *batch.buffer;
  if (status.ok() && cache_.ngrams_max() != 0) PutIntoCache(batch, layer_index);
  const Status& outcome = batch.landing_failure.ok() ? status : batch.landing_failure;
  StagingRing::FinishPart(buffer, layer_index, SteadyClock().Now(), outcome);
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
