#include "engram/transport/loopback/loopback_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engram/base/check.h"

namespace engram::loopback {
namespace {
// Small, so that those who read learn to expect several chunks a read.
constexpr uint32_t kChunkRows = 128;
}  // namespace

LoopbackReader::LoopbackReader(std::shared_ptr<Wire> wire, ReaderEvents* events)
    : wire_(std::move(wire)), events_(events) {
  const std::lock_guard lock(wire_->mutex);
  wire_->sleepers.insert(&sleeper_);
}

LoopbackReader::~LoopbackReader() {
  const std::lock_guard lock(wire_->mutex);
  wire_->sleepers.erase(&sleeper_);
  for (const auto& [id, session] : sessions_) {
    if (session->open && session->node != nullptr) --session->node->stats.sessions_open;
  }
}

SessionId LoopbackReader::Open(const NodeTarget& target) {
  const SessionId id(++last_session_);
  auto session = std::make_shared<Session>();
  session->target = target;
  sessions_.emplace(id, std::move(session));
  return id;
}

void LoopbackReader::Close(SessionId session) {
  const auto found = sessions_.find(session);
  if (found != sessions_.end()) found->second->closing = true;
}

StatusCode LoopbackReader::Post(SessionId session, uint64_t tag, std::span<const RowAddress> rows,
                                MonotonicTime /*wanted_by*/) {
  ENGRAM_CHECK(!rows.empty() && rows.size() <= kReadRowsMax);
  const auto found = sessions_.find(session);
  if (found == sessions_.end() || !found->second->open || found->second->closing) {
    return StatusCode::kPeerLost;
  }
  Session& s = *found->second;
  if (s.reads.size() >= kReadsInFlightMax) return StatusCode::kResourceExhausted;
  const std::lock_guard lock(wire_->mutex);
  const Line& line = wire_->lines[s.target.address];
  s.reads.push_back({tag, {rows.begin(), rows.end()}, wire_->clock().Now() + line.delay});
  return StatusCode::kOk;
}

void LoopbackReader::AcknowledgeEpoch(SessionId session, Epoch epoch) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  found->second->acknowledged = std::max(found->second->acknowledged, epoch);
}

bool LoopbackReader::Progress() {
  bool any = false;
  std::vector<SessionId> ids;
  for (const auto& [id, session] : sessions_) ids.push_back(id);
  for (const SessionId id : ids) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) continue;
    const std::shared_ptr<Session> session = found->second;  // events may end it
    any |= ProgressSession(id, *session);
  }
  return any;
}

bool LoopbackReader::ProgressSession(SessionId id, Session& session) {
  if (session.closing) {
    End(id, session, Status(StatusCode::kCancelled, "closed by the reader"),
        StatusCode::kCancelled);
    return true;
  }
  if (!session.open) return TryOpen(id, session);
  bool any = false;
  while (!session.closing) {
    Read read;
    Answer answer;
    Status alive;
    {
      const std::lock_guard lock(wire_->mutex);
      Line& line = wire_->lines[session.target.address];
      alive = CheckAlive(session, line);
      if (alive.ok()) {
        const bool due =
            !session.reads.empty() && session.reads.front().due <= wire_->clock().Now();
        if (line.held || !due) return any;
        read = std::move(session.reads.front());
        session.reads.pop_front();
        Gather(session, read, line, answer);
      }
    }
    if (!alive.ok()) {
      End(id, session, alive, alive.code());
      return true;
    }
    Deliver(id, read, answer);
    any = true;
  }
  return any;
}

bool LoopbackReader::TryOpen(SessionId id, Session& session) {
  Status status;
  SessionInfo info;
  {
    const std::lock_guard lock(wire_->mutex);
    Line& line = wire_->lines[session.target.address];
    if (line.held && line.node != nullptr) return false;
    status = CheckTarget(session, line);
    if (status.ok()) {
      session.node = line.node;
      session.open = true;
      ++session.node->stats.sessions_open;
      info.incarnation = session.node->incarnation;
      info.reason = "loopback has one way";
    } else if (line.node != nullptr) {
      ++line.node->stats.refused_sessions;
    }
  }
  if (status.ok()) {
    events_->OnOpen(id, info);
  } else {
    End(id, session, status, status.code());
  }
  return true;
}

Status LoopbackReader::CheckTarget(const Session& session, const Line& line) const {
  const NodeTarget& target = session.target;
  if (line.node == nullptr) {
    return {StatusCode::kUnavailable, "nobody listens on " + target.address};
  }
  if (line.refuse_sessions != StatusCode::kOk) {
    return {line.refuse_sessions, target.address + " was told to refuse sessions"};
  }
  if (target.incarnation != Incarnation(0) && target.incarnation != line.node->incarnation) {
    return {StatusCode::kWrongIncarnation, target.address + " restarted since"};
  }
  const auto served = line.node->versions.find(target.version);
  if (served == line.node->versions.end()) {
    return {StatusCode::kWrongVersion,
            target.address + " does not serve version " + std::to_string(target.version.value())};
  }
  const ServedSlots& slots = *served->second;
  const TableLayout& layout = slots.layout();
  if (target.identity != slots.identity() || target.row_stride != layout.row_stride() ||
      target.slot_shift != layout.slot_shift() || target.slot_count != layout.slot_count()) {
    return {StatusCode::kWrongModel, target.address + " serves another model or layout"};
  }
  return {};
}

Status LoopbackReader::CheckAlive(const Session& session, const Line& line) const {
  if (session.node->lost || line.node != session.node) {
    return {StatusCode::kPeerLost, session.target.address + " is gone"};
  }
  if (!session.node->versions.contains(session.target.version)) {
    return {StatusCode::kWrongVersion, session.target.address + " no longer serves version " +
                                           std::to_string(session.target.version.value())};
  }
  return {};
}

void LoopbackReader::Gather(const Session& session, const Read& read, Line& line, Answer& answer) {
  const ServedSlots& slots = *session.node->versions.at(session.target.version);
  const TableLayout& layout = slots.layout();
  RowServerStats& stats = session.node->stats;
  ++stats.reads;
  answer.newest = slots.newest_epoch();
  if (line.fail_reads > 0) {
    --line.fail_reads;
    answer.status = line.fail_reads_with;
    return;
  }
  const size_t stride = layout.row_stride();
  answer.rows.resize(read.rows.size() * stride);
  answer.statuses.assign(read.rows.size(), StatusCode::kOk);
  for (size_t i = 0; i < read.rows.size(); ++i) {
    const RowAddress address = read.rows[i];
    if (!layout.Contains(address)) {
      answer.statuses[i] = StatusCode::kInvalidArgument;
      ++stats.rows_out_of_range;
    } else if (const std::byte* slot = slots.Rows(layout.SlotOf(address)); slot == nullptr) {
      answer.statuses[i] = StatusCode::kNotOwned;
      ++stats.rows_not_owned;
    } else {
      std::byte* const row = answer.rows.data() + i * stride;
      std::memcpy(row, slot + layout.RowInSlot(address) * stride, stride);
      if (line.corrupt_rows > 0) {
        --line.corrupt_rows;
        row[i % stride] ^= std::byte{0x10};
      }
      ++stats.rows;
      stats.bytes += stride;
      continue;
    }
    answer.all_ok = false;
  }
}

void LoopbackReader::Deliver(SessionId id, const Read& read, const Answer& answer) {
  const auto count = static_cast<uint32_t>(answer.statuses.size());
  const size_t stride = count == 0 ? 0 : answer.rows.size() / count;
  for (uint32_t first = 0; first < count; first += kChunkRows) {
    RowChunk chunk;
    chunk.first = first;
    chunk.count = std::min(kChunkRows, count - first);
    chunk.rows = answer.rows.data() + first * stride;
    chunk.statuses = answer.all_ok ? nullptr : answer.statuses.data() + first;
    events_->OnRows(read.tag, chunk);
  }
  if (answer.status == StatusCode::kResourceExhausted) events_->OnBusy(id, Duration::zero());
  events_->OnReadDone(read.tag, answer.status);
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Session& session = *found->second;
  if (answer.newest > session.acknowledged && answer.newest > session.told) {
    session.told = answer.newest;
    events_->OnEpoch(id, answer.newest);
  }
}

void LoopbackReader::End(SessionId id, Session& session, const Status& why, StatusCode reads_code) {
  session.closing = true;
  while (!session.reads.empty()) {
    const uint64_t tag = session.reads.front().tag;
    session.reads.pop_front();
    events_->OnReadDone(tag, reads_code);
  }
  if (session.open) {
    const std::lock_guard lock(wire_->mutex);
    --session.node->stats.sessions_open;
  }
  session.open = false;
  sessions_.erase(id);
  events_->OnClosed(id, why);
}

MonotonicTime LoopbackReader::NextDue() const {
  MonotonicTime next = MonotonicTime::max();
  for (const auto& [id, session] : sessions_) {
    if (session->closing) return MonotonicTime::min();
    if (!session->reads.empty()) next = std::min(next, session->reads.front().due);
  }
  return next;
}

void LoopbackReader::Wait(MonotonicTime until, std::unique_lock<std::mutex>* driving) {
  std::unique_lock lock(wire_->mutex);
  const MonotonicTime now = wire_->clock().Now();
  for (const auto& [id, session] : sessions_) {
    const auto line = wire_->lines.find(session->target.address);
    const bool held = line != wire_->lines.end() && line->second.held;
    const bool ready = !session->open || session->closing ||
                       !CheckAlive(*session, wire_->lines[session->target.address]).ok() ||
                       (!session->reads.empty() && session->reads.front().due <= now);
    if (ready && !(held && !session->closing)) return;
  }
  // A manual clock may say anything: what is waited is real time. A difference with
  // MonotonicTime::min() or max() overflows.
  const MonotonicTime end =
      std::clamp(std::min(until, NextDue()), now, now + std::chrono::seconds(1));
  if (driving != nullptr) driving->unlock();
  sleeper_.wakened.wait_for(lock, end - now, [this] { return sleeper_.wake; });
  sleeper_.wake = false;
  lock.unlock();  // never held while `driving` is waited for: who drives may want it
  if (driving != nullptr) driving->lock();
}

void LoopbackReader::Wake() {
  const std::lock_guard lock(wire_->mutex);
  sleeper_.wake = true;
  sleeper_.wakened.notify_all();
}

}  // namespace engram::loopback
