#include "engram/transport/ucx/ucx_row_reader.h"

#include <algorithm>
#include <random>
#include <utility>

#include "engram/base/check.h"

namespace engram {

Result<std::unique_ptr<UcxRowReader>> UcxRowReader::Create(const UcxTransportOptions& options,
                                                           const UcxContext& context,
                                                           const UcxContext* one_sided,
                                                           boost::asio::io_context& control_io,
                                                           ReaderEvents* events) {
  std::unique_ptr<UcxRowReader> reader(new UcxRowReader(options, one_sided, control_io, events));
  ENGRAM_TRY(reader->Prepare(context));
  return reader;
}

Status UcxRowReader::Prepare(const UcxContext& context) {
  auto wait = EventWait::Create();
  if (!wait.has_value()) return wait.error();
  wait_ = *std::move(wait);
  inbox_ = std::make_shared<ControlInbox>(wait_);
  auto worker = UcxWorker::Create(context);
  if (!worker.has_value()) return worker.error();
  worker_ = *std::move(worker);
  auto address = worker_->Address();
  if (!address.has_value()) return address.error();
  port_guard_.Guard(*address);
  ENGRAM_RETURN_IF_ERROR(worker_->Handle(this));
  ENGRAM_RETURN_IF_ERROR(wait_->Watch(worker_->event_fd()));
  if (one_sided_context_ != nullptr) {
    auto one_sided = UcxWorker::Create(*one_sided_context_);
    if (!one_sided.has_value()) return one_sided.error();
    one_sided_worker_ = *std::move(one_sided);
    ENGRAM_RETURN_IF_ERROR(wait_->Watch(one_sided_worker_->event_fd()));
  }
  tcp_segment_ = UcxTcpSegment();
  statuses_.resize(kReadRowsMax);
  return {};
}

UcxRowReader::~UcxRowReader() {
  by_number_.clear();
  for (auto& [id, session] : sessions_) {
    for (PendingRead* const read : session->reads) read->session = nullptr;
    Leave(std::move(session));
  }
  sessions_.clear();
  while (!leaving_.empty()) {
    worker_->Progress();
    LeaveAnswered(std::chrono::steady_clock::now());
  }
  worker_->FinishClosing();
  if (one_sided_worker_ != nullptr) one_sided_worker_->FinishClosing();
}

ReaderSession* UcxRowReader::Find(SessionId id) {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second.get();
}

void UcxRowReader::Close(SessionId session) {
  if (ReaderSession* const found = Find(session); found != nullptr) {
    EndLater(*found, Status(StatusCode::kCancelled, "closed by the reader"));
  }
}

StatusCode UcxRowReader::Post(SessionId session, uint64_t tag, std::span<const RowAddress> rows,
                              MonotonicTime wanted_by) {
  ENGRAM_CHECK(!rows.empty() && rows.size() <= kReadRowsMax);
  ReaderSession* const found = Find(session);
  if (found == nullptr || found->state != ReaderSession::State::kOpen ||
      found->end_with.has_value()) {
    return StatusCode::kPeerLost;
  }
  if (found->posted_reads >= kReadsInFlightMax) return StatusCode::kResourceExhausted;
  PendingRead& read = TakeRead(*found, tag, rows, wanted_by);
  read.way = found->way;
  if (!StartRead(read)) {
    Release(read);
    return StatusCode::kPeerLost;
  }
  return StatusCode::kOk;
}

void UcxRowReader::AcknowledgeEpoch(SessionId session, Epoch epoch) {
  ReaderSession* const found = Find(session);
  if (found == nullptr || epoch <= found->acknowledged) return;
  found->acknowledged = epoch;
  // Who waits for the acknowledgement should not wait for the next renewal.
  if (found->next_lease != MonotonicTime::max()) {
    found->next_lease = MonotonicTime::min();
    next_timer_ = MonotonicTime::min();
  }
}

PendingRead& UcxRowReader::TakeRead(ReaderSession& session, uint64_t tag,
                                    std::span<const RowAddress> rows, MonotonicTime wanted_by) {
  if (free_reads_.empty()) {
    reads_.push_back(std::make_unique<PendingRead>(this));
    reads_.back()->index = static_cast<uint32_t>(reads_.size() - 1);
    free_reads_.reserve(reads_.size());
    free_reads_.push_back(reads_.back().get());
  }
  PendingRead& read = *free_reads_.back();
  free_reads_.pop_back();
  read.session = &session;
  read.tag = tag;
  read.trial = false;
  read.rows.assign(rows.begin(), rows.end());
  read.wanted_by = wanted_by;
  read.next = 0;
  read.gather_first = 0;
  read.awaits_reply = false;
  session.reads.push_back(&read);
  ++session.posted_reads;
  ++reads_in_flight_;
  return read;
}

bool UcxRowReader::StartRead(PendingRead& read) {
  ReaderSession& session = *read.session;
  if (read.way == ReadWay::kMapped && session.memory.can_map()) {
    ++read.holds;
    mapped_queue_.push_back(&read);
    return true;
  }
  if (read.way == ReadWay::kOneSided && session.window != nullptr &&
      session.memory.can_read_one_sided()) {
    ++read.holds;
    session.window->queue.push_back(&read);
    return true;
  }
  return SendGather(read, 0);
}

void UcxRowReader::Deliver(PendingRead& read, const RowChunk& chunk) {
  if (read.trial) {
    TakeTrialRows(*read.session, read, chunk);
  } else {
    events_->OnRows(read.tag, chunk);
  }
}

void UcxRowReader::FinishRead(PendingRead& read, StatusCode status) {
  ReaderSession& session = *read.session;
  const uint64_t tag = read.tag;
  const bool trial = read.trial;
  Release(read);
  if (trial) {
    OnTrialReadDone(session, status);
  } else {
    events_->OnReadDone(tag, status);
  }
}

void UcxRowReader::Release(PendingRead& read) {
  ReaderSession& session = *read.session;
  std::erase(session.reads, &read);
  --session.posted_reads;
  --reads_in_flight_;
  read.session = nullptr;
  read.awaits_reply = false;
  ++read.generation;
  if (read.holds == 0) free_reads_.push_back(&read);
}

void UcxRowReader::DropHold(PendingRead& read) {
  --read.holds;
  if (read.holds == 0 && read.session == nullptr) free_reads_.push_back(&read);
}

bool UcxRowReader::Progress() {
  bool any = ProgressOnce();
  if (spin_next_) {
    spin_next_ = false;
    const MonotonicTime end = idle_since_ + spin_.now();
    while (!any && !wait_->HasNotice() && std::chrono::steady_clock::now() < end) {
      __builtin_ia32_pause();
      any = ProgressOnce();
    }
    spun_ = !any;
  } else if (any) {
    spun_ = false;
  }
  return any;
}

bool UcxRowReader::ProgressOnce() {
  bool any = inbox_->TakeAll(control_events_);
  if (any) {
    for (ControlEvent& event : control_events_) OnControl(event);
    control_events_.clear();
  }
  any |= worker_->Progress();
  if (one_sided_worker_ != nullptr) {
    any |= one_sided_worker_->Progress();
    any |= RunOneSided();
  }
  if (!mapped_queue_.empty()) any |= RunMapped();
  const MonotonicTime now = std::chrono::steady_clock::now();
  if (now >= next_timer_) RunTimers(now);
  if (sessions_to_end_) {
    EndSessions();
    any = true;
  }
  if (!leaving_.empty()) LeaveAnswered(now);
  return any;
}

// The spin belongs to Progress, where events may be told: the first Wait after something happened
// only asks the next Progress to look longer, the second sleeps.
void UcxRowReader::Wait(MonotonicTime until, std::unique_lock<std::mutex>* driving) {
  if (wait_->TakeNotice() || !inbox_->empty()) return;
  if (reads_in_flight_ > 0 && !spun_) {
    spin_next_ = true;
    idle_since_ = std::chrono::steady_clock::now();
    return;
  }
  const bool spun = std::exchange(spun_, false);
  const MonotonicTime idle_since = idle_since_;
  if (!Arm()) return;
  sleeps_until_ = std::min(until, next_timer_);
  const MonotonicTime sleep_end = sleeps_until_;
  if (driving != nullptr) driving->unlock();
  wait_->Sleep(sleep_end);
  if (driving != nullptr) driving->lock();
  if (spun) spin_.WorkCameAfter(std::chrono::steady_clock::now() - idle_since);
  [[maybe_unused]] const bool noticed = wait_->TakeNotice();
}

bool UcxRowReader::Arm() {
  if (!mapped_queue_.empty() || sessions_to_end_) return false;
  if (one_sided_worker_ != nullptr && OneSidedHasWork()) return false;
  const bool armed = worker_->Arm() && (one_sided_worker_ == nullptr || one_sided_worker_->Arm());
  return armed && !wait_->HasNotice();
}

bool UcxRowReader::GiveBack(MonotonicTime until) {
  wait_->Resume();
  spin_next_ = false;
  if (!inbox_->empty() || !Arm()) return false;
  const MonotonicTime end = std::min(until, next_timer_);
  if (end < sleeps_until_) {
    sleeps_until_ = end;
    wait_->Alarm(end);
  }
  return true;
}

}  // namespace engram
