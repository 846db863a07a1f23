#include "shard_server/slot_copier.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>

#include "engram/base/check.h"
#include "engram/table/stored_row.h"
#include "shard_server/byte_text.h"
#include "shard_server/slot_memory.h"

namespace engram {
namespace {

// How long a copy sleeps before it looks at its control again.
constexpr auto kControlPoll = std::chrono::milliseconds(20);

// One SlotCopier::Copy. The copying thread drives everything, the reader's events included.
//
// Invariant: only OnRows writes to a slot's rows, and only while the slot is in `active_`; so a
// slot that was told of, or dropped, is written to no more.
class CopyRun final : public ReaderEvents {
 public:
  CopyRun(const CopyJob& job, const SlotCopier::Options& options, ByteRate* rate, ByteMeter* meter,
          LoadControl* control, const OnSlotLoaded& on_loaded, const OnCopyFailed& on_failed)
      : job_(job),
        options_(options),
        rate_(rate),
        meter_(meter),
        control_(control),
        on_loaded_(on_loaded),
        on_failed_(on_failed),
        row_stride_(job.layout->row_stride()),
        sources_(job.sources.size()),
        slots_(job.slots.size()) {}

  Status Run(Transport* transport);

  void OnOpen(SessionId session, const SessionInfo& /*info*/) override {
    if (Source* const source = Find(session); source != nullptr) source->open = true;
  }
  void OnClosed(SessionId session, const Status& why) override {
    if (Source* const source = Find(session); source != nullptr) GiveUp(source, why);
  }
  void OnRows(uint64_t tag, const RowChunk& chunk) override;
  void OnReadDone(uint64_t tag, StatusCode status) override;
  void OnEpoch(SessionId session, Epoch newest) override;
  void OnBusy(SessionId session, Duration retry_after) override {
    if (Source* const source = Find(session); source != nullptr) {
      source->busy_until = SteadyClock().Now() + retry_after;
    }
  }

 private:
  struct Source {
    SessionId session;  // 0 = none was opened
    bool open = false;
    bool lost = false;
    Status why;                // it was lost
    uint32_t reads = 0;        // in flight
    MonotonicTime heard_at;    // the last read ended, or the first of those in flight was posted
    MonotonicTime busy_until;  // it asked to be left alone
    Epoch newest;              // to be acknowledged once the slots before `epoch_after` are done
    size_t epoch_after = 0;
    uint64_t slots_copied = 0;
    uint64_t slots_failed = 0;
    std::string first_failure;
  };
  struct Rows {
    uint32_t first = 0;  // in the slot
    uint32_t count = 0;
  };
  struct Slot {
    uint32_t rows_posted = 0;
    std::vector<Rows> again;  // of these: the source was busy
    uint32_t rows_arrived = 0;
    bool active = false;
  };
  struct Read {
    size_t slot = 0;  // in job_.slots
    uint32_t first_row = 0;
    uint32_t row_count = 0;
    bool in_flight = false;
  };

  [[nodiscard]] Source* Find(SessionId session) {
    const auto found = std::find_if(sources_.begin(), sources_.end(),
                                    [session](const Source& s) { return s.session == session; });
    return found == sources_.end() ? nullptr : &*found;
  }
  [[nodiscard]] Source& SourceOf(size_t slot) { return sources_[job_.slots[slot].source]; }
  void StartSlots();
  void Open(uint32_t source);
  void PostReads();
  // False when nothing more can be posted now, for any slot.
  [[nodiscard]] bool PostSlot(size_t slot);
  [[nodiscard]] uint64_t TakeTag();
  void DropUnwanted();
  void GiveUpStalled();
  void AcknowledgeEpochs();
  void GiveUp(Source* source, const Status& why);
  void End(size_t slot);
  void Fail(size_t slot, const Status& why);
  void Complete(size_t slot);
  void LogEnd() const;

  const CopyJob& job_;
  const SlotCopier::Options& options_;
  ByteRate* const rate_;
  ByteMeter* const meter_;
  LoadControl* const control_;
  const OnSlotLoaded& on_loaded_;
  const OnCopyFailed& on_failed_;
  const uint32_t row_stride_;
  const MonotonicTime started_ = SteadyClock().Now();
  std::vector<Source> sources_;  // [job_.sources]
  std::vector<Slot> slots_;      // [job_.slots]
  std::vector<size_t> active_;   // in job_.slots, in their order
  size_t next_ = 0;              // the first slot that was not started
  std::vector<Read> reads_;      // by tag
  MonotonicTime post_again_;     // when the rate lets the next read go
  uint64_t bytes_arrived_ = 0;
  std::unique_ptr<RowReader> reader_;  // last: it tells events of the above
};

Status CopyRun::Run(Transport* transport) {
  auto reader = transport->CreateReader(this);
  if (!reader.has_value()) {
    for (const CopySlot& slot : job_.slots) on_failed_(slot.slot, reader.error());
    return {};
  }
  reader_ = *std::move(reader);
  MonotonicTime next_look;
  while (true) {
    if (control_->cancelled()) return {StatusCode::kCancelled, "the copy was cancelled"};
    const MonotonicTime now = SteadyClock().Now();
    if (now >= next_look) {
      next_look = now + kControlPoll;
      DropUnwanted();
      GiveUpStalled();
    }
    StartSlots();
    AcknowledgeEpochs();
    if (active_.empty() && next_ == job_.slots.size()) break;
    if (!control_->paused()) PostReads();
    if (reader_->Progress()) continue;
    MonotonicTime until = next_look;
    if (post_again_ > now) until = std::min(until, post_again_);
    reader_->Wait(until, nullptr);
  }
  LogEnd();
  return {};
}

void CopyRun::StartSlots() {
  while (active_.size() < options_.slots_in_flight_max && next_ < job_.slots.size()) {
    const size_t slot = next_++;
    const EmptySlot& wanted = job_.slots[slot].slot;
    if (control_->dropped(wanted.slot)) continue;
    Source& source = SourceOf(slot);
    Status status =
        source.lost
            ? source.why
            : PopulatePages(wanted.slot, {wanted.rows, job_.layout->slot_bytes(wanted.slot)});
    if (!status.ok()) {
      Fail(slot, status);
      continue;
    }
    if (source.session == SessionId(0)) Open(job_.slots[slot].source);
    slots_[slot].active = true;
    active_.push_back(slot);
  }
}

void CopyRun::Open(uint32_t index) {
  const CopySource& source = job_.sources[index];
  NodeTarget target;
  target.address = source.address;
  target.version = job_.version;
  target.identity = job_.identity;
  target.row_stride = row_stride_;
  target.slot_shift = job_.layout->slot_shift();
  target.slot_count = job_.layout->slot_count();
  target.incarnation = source.incarnation;
  sources_[index].session = reader_->Open(target);
}

void CopyRun::PostReads() {
  for (const size_t slot : std::vector<size_t>(active_)) {
    if (slots_[slot].active && !PostSlot(slot)) return;
  }
}

bool CopyRun::PostSlot(size_t index) {
  Slot& slot = slots_[index];
  Source& source = SourceOf(index);
  const SlotIndex number = job_.slots[index].slot.slot;
  const uint32_t row_count = job_.layout->slot(number).row_count;
  const uint32_t rows_max = std::min(options_.rows_per_read, kReadRowsMax);
  while (source.open && (slot.rows_posted < row_count || !slot.again.empty()) &&
         source.reads < options_.reads_in_flight_max) {
    const Rows next = slot.again.empty()
                          ? Rows{slot.rows_posted, std::min(rows_max, row_count - slot.rows_posted)}
                          : slot.again.back();
    const uint32_t count = next.count;
    const MonotonicTime now = SteadyClock().Now();
    if (now < source.busy_until) return true;
    if (!rate_->Take(uint64_t{count} * row_stride_, now, &post_again_)) return false;
    std::vector<RowAddress> rows;
    rows.reserve(count);
    const uint64_t first = (uint64_t{number.value()} << job_.layout->slot_shift());
    for (uint32_t i = 0; i < count; ++i) rows.emplace_back(first + next.first + i);
    const uint64_t tag = TakeTag();
    const StatusCode posted = reader_->Post(source.session, tag, rows, MonotonicTime::max());
    if (posted == StatusCode::kResourceExhausted) return true;
    if (posted != StatusCode::kOk) {
      GiveUp(&source,
             {posted, "the connection to " + job_.sources[job_.slots[index].source].id + " ended"});
      return true;
    }
    reads_[tag] = {index, next.first, count, true};
    if (source.reads++ == 0) source.heard_at = now;
    if (slot.again.empty()) {
      slot.rows_posted += count;
    } else {
      slot.again.pop_back();
    }
  }
  return true;
}

uint64_t CopyRun::TakeTag() {
  const auto free =
      std::find_if(reads_.begin(), reads_.end(), [](const Read& read) { return !read.in_flight; });
  if (free != reads_.end()) return static_cast<uint64_t>(free - reads_.begin());
  reads_.emplace_back();
  return reads_.size() - 1;
}

void CopyRun::OnRows(uint64_t tag, const RowChunk& chunk) {
  const Read& read = reads_[tag];
  ENGRAM_CHECK(chunk.first + chunk.count <= read.row_count);
  Slot& slot = slots_[read.slot];
  if (!slot.active) return;
  const EmptySlot& wanted = job_.slots[read.slot].slot;
  const SlotRange& range = job_.layout->slot(wanted.slot);
  const int32_t layer_id =
      job_.layout->spec().hash.layer_ids[static_cast<size_t>(range.layer_index)];
  const uint32_t first = read.first_row + chunk.first;
  for (uint32_t i = 0; i < chunk.count; ++i) {
    const RowId row(range.first_row.value() + first + i);
    if (chunk.statuses != nullptr && chunk.statuses[i] != StatusCode::kOk) {
      Fail(read.slot, {chunk.statuses[i], "it does not give row " + std::to_string(row.value())});
      return;
    }
    const std::byte* const bytes = chunk.rows + uint64_t{i} * row_stride_;
    if (!VerifyRow(job_.version, layer_id, row, bytes, job_.layout->row_bytes())) {
      Fail(read.slot, {StatusCode::kCorrupt, "row " + std::to_string(row.value()) + " of layer " +
                                                 std::to_string(layer_id) + " is damaged there"});
      return;
    }
  }
  const uint64_t bytes = uint64_t{chunk.count} * row_stride_;
  std::memcpy(wanted.rows + uint64_t{first} * row_stride_, chunk.rows, bytes);
  slot.rows_arrived += chunk.count;
  bytes_arrived_ += bytes;
  control_->AddBytesDone(bytes);
  meter_->Add(bytes, SteadyClock().Now());
  if (slot.rows_arrived == range.row_count) Complete(read.slot);
}

void CopyRun::OnReadDone(uint64_t tag, StatusCode status) {
  Read& read = reads_[tag];
  read.in_flight = false;
  Source& source = SourceOf(read.slot);
  --source.reads;
  source.heard_at = SteadyClock().Now();
  if (status == StatusCode::kResourceExhausted) {
    slots_[read.slot].again.push_back({read.first_row, read.row_count});
  } else if (status != StatusCode::kOk && slots_[read.slot].active) {
    Fail(read.slot, {status, "a read ended without its rows"});
  }
}

// The source may have the slots that are on their way leave before this session says that it asks
// for them no longer. It holds the source's other slots up no longer than that.
void CopyRun::OnEpoch(SessionId session, Epoch newest) {
  Source* const source = Find(session);
  if (source == nullptr || newest <= source->newest) return;
  source->newest = newest;
  source->epoch_after = next_;
}

void CopyRun::AcknowledgeEpochs() {
  for (size_t i = 0; i < sources_.size(); ++i) {
    Source& source = sources_[i];
    if (source.newest == Epoch(0) || !source.open || source.lost) continue;
    const bool busy = std::any_of(active_.begin(), active_.end(), [&](size_t slot) {
      return job_.slots[slot].source == i && slot < source.epoch_after;
    });
    if (busy) continue;
    reader_->AcknowledgeEpoch(source.session, source.newest);
    source.epoch_after = 0;
  }
}

void CopyRun::DropUnwanted() {
  for (const size_t slot : std::vector<size_t>(active_)) {
    if (control_->dropped(job_.slots[slot].slot.slot)) End(slot);
  }
}

void CopyRun::GiveUpStalled() {
  const MonotonicTime now = SteadyClock().Now();
  for (Source& source : sources_) {
    if (source.lost || source.reads == 0 || now - source.heard_at < options_.stall_max) continue;
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(options_.stall_max);
    GiveUp(&source, {StatusCode::kDeadlineExceeded,
                     "a read got no answer for " + std::to_string(seconds.count()) + " s"});
    reader_->Close(source.session);
  }
}

void CopyRun::GiveUp(Source* source, const Status& why) {
  if (source->lost) return;
  source->lost = true;
  source->open = false;
  source->why = why;
  for (const size_t slot : std::vector<size_t>(active_)) {
    if (&SourceOf(slot) == source) Fail(slot, why);
  }
}

void CopyRun::End(size_t slot) {
  slots_[slot].active = false;
  std::erase(active_, slot);
}

void CopyRun::Fail(size_t slot, const Status& why) {
  End(slot);
  Source& source = SourceOf(slot);
  const EmptySlot& wanted = job_.slots[slot].slot;
  if (source.slots_failed++ == 0) {
    source.first_failure = "slot " + std::to_string(wanted.slot.value()) + ": " + why.ToString();
  }
  on_failed_(wanted, why);
}

void CopyRun::Complete(size_t slot) {
  const EmptySlot& wanted = job_.slots[slot].slot;
  const SlotDigest digest = DigestOfRows({wanted.rows, job_.layout->slot_bytes(wanted.slot)});
  if (wanted.digest != 0 && wanted.digest != digest) {
    Fail(slot, {StatusCode::kCorrupt,
                "its rows are whole, but the slot's digest is another than "
                "was recorded"});
    return;
  }
  End(slot);
  ++SourceOf(slot).slots_copied;
  on_loaded_(wanted, digest);
}

void CopyRun::LogEnd() const {
  const double seconds = std::chrono::duration<double>(SteadyClock().Now() - started_).count();
  uint64_t copied = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const Source& source = sources_[i];
    copied += source.slots_copied;
    if (source.slots_failed == 0) continue;
    spdlog::warn(
        "version {}: {} slots were copied from {}, {} were not and come from the "
        "checkpoint; the first, {}",
        job_.version.value(), source.slots_copied, job_.sources[i].id, source.slots_failed,
        source.first_failure);
  }
  const double rate = static_cast<double>(bytes_arrived_) / std::max(seconds, 1e-9);
  spdlog::info("version {}: copied and checked {} slots, {} in {:.2f} s ({}/s)",
               job_.version.value(), copied, ByteText(bytes_arrived_), seconds,
               ByteText(static_cast<uint64_t>(rate)));
}

}  // namespace

Status SlotCopier::Copy(const CopyJob& job, LoadControl* control, const OnSlotLoaded& on_loaded,
                        const OnCopyFailed& on_failed) {
  if (transport_ == nullptr) {
    auto made = make_transport_();
    if (!made.has_value()) {
      spdlog::error("slots cannot be copied from other nodes: {}", made.error().ToString());
      for (const CopySlot& slot : job.slots) on_failed(slot.slot, made.error());
      return {};
    }
    transport_ = *std::move(made);
  }
  CopyRun run(job, options_, &rate_, &meter_, control, on_loaded, on_failed);
  return run.Run(transport_.get());
}

}  // namespace engram
