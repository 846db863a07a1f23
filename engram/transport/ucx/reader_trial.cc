// Which way a session takes: forced, or the fastest of those that work, measured.
#include <algorithm>
#include <cstring>
#include <utility>

#include <spdlog/spdlog.h>

#include "engram/base/check.h"
#include "engram/transport/ucx/ucx_row_reader.h"

namespace engram {
namespace {

std::string NanosecondsPerRow(Duration duration) {
  return std::to_string(std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count() /
                        WayTrial::kRows) +
         " ns a row";
}

}  // namespace

// Decides at once where there is nothing to compare, else starts a trial.
void UcxRowReader::ChooseWay(ReaderSession& session) {
  const ReadWay forced = options_.way;
  const NodeMemory& memory = session.memory;
  std::string off;
  if (!memory.can_map()) off += "; mapped: " + memory.map_off();
  const bool can_read_one_sided = memory.can_read_one_sided() && session.window != nullptr;
  if (!memory.can_read_one_sided()) off += "; one-sided: " + memory.one_sided_off();
  if (!session.ways_off.empty()) off += "; " + session.ways_off;
  const bool may_map =
      memory.can_map() && forced != ReadWay::kGather && forced != ReadWay::kOneSided;
  const bool may_read_one_sided =
      can_read_one_sided && forced != ReadWay::kGather && forced != ReadWay::kMapped;
  session.way = ReadWay::kGather;
  if ((forced == ReadWay::kMapped && !may_map) ||
      (forced == ReadWay::kOneSided && !may_read_one_sided)) {
    EndLater(session,
             Status(StatusCode::kFailedPrecondition, "reading " + std::string(ReadWayName(forced)) +
                                                         " was forced and is not possible" + off));
    return;
  }
  if (!may_map && !may_read_one_sided) {
    session.reason = forced == ReadWay::kGather ? "forced" : "the only way" + off;
    BecomeOpen(session);
    return;
  }
  auto trial = std::make_unique<WayTrial>();
  trial->rows = memory.SampleRows(WayTrial::kRows, options_.client_id);
  if (trial->rows.empty()) {
    if (forced != ReadWay::kAuto) session.way = forced;
    session.reason = "not measured: the node lists no slots yet";
    BecomeOpen(session);
    return;
  }
  trial->reference.resize(size_t{WayTrial::kRows} * session.target.row_stride);
  trial->candidates.push_back({ReadWay::kGather});
  if (may_map) trial->candidates.push_back({ReadWay::kMapped});
  if (may_read_one_sided) trial->candidates.push_back({ReadWay::kOneSided});
  session.trial = std::move(trial);
  session.tried = true;
  if (session.state != ReaderSession::State::kOpen) {
    session.state = ReaderSession::State::kTrying;
  }
  StartTrialRead(session);
}

void UcxRowReader::StartTrialRead(ReaderSession& session) {
  WayTrial& trial = *session.trial;
  const WayTrial::Candidate& candidate = trial.candidates[trial.current];
  trial.started = std::chrono::steady_clock::now();
  PendingRead& read = TakeRead(session, 0, trial.rows, MonotonicTime::max());
  read.trial = true;
  read.way = candidate.way;
  if (!StartRead(read)) Release(read);
}

void UcxRowReader::TakeTrialRows(ReaderSession& session, const PendingRead& read,
                                 const RowChunk& chunk) {
  if (session.trial == nullptr) return;
  WayTrial& trial = *session.trial;
  WayTrial::Candidate& candidate = trial.candidates[trial.current];
  if (candidate.round != 0) return;
  ENGRAM_CHECK(chunk.first + chunk.count <= read.rows.size());
  const size_t stride = session.target.row_stride;
  const std::byte* rows = chunk.rows;
  if (chunk.landed) {
    trial.landed.resize(chunk.count * stride);
    const Status copied = options_.landing->CopyToHost(rows, trial.landed);
    if (!copied.ok()) {
      candidate.status = copied.code();
      session.ways_off += "; one-sided: " + copied.message();
    }
    rows = trial.landed.data();
  }
  for (uint32_t i = 0; i < chunk.count; ++i) {
    if (chunk.statuses != nullptr && chunk.statuses[i] != StatusCode::kOk) continue;
    std::byte* const kept = trial.reference.data() + (chunk.first + i) * stride;
    const std::byte* const row = rows + i * stride;
    if (candidate.way == ReadWay::kGather) {
      std::memcpy(kept, row, stride);
    } else if (std::memcmp(kept, row, stride) != 0) {
      ++candidate.wrong_rows;
    }
  }
}

void UcxRowReader::OnTrialReadDone(ReaderSession& session, StatusCode status) {
  if (session.trial == nullptr) return;
  WayTrial& trial = *session.trial;
  WayTrial::Candidate& candidate = trial.candidates[trial.current];
  if (candidate.round > 0) {
    candidate.best = std::min(candidate.best, std::chrono::steady_clock::now() - trial.started);
  }
  if (status != StatusCode::kOk) candidate.status = status;
  ++candidate.round;
  if (candidate.round == WayTrial::kRounds || candidate.status != StatusCode::kOk ||
      candidate.wrong_rows > 0) {
    ++trial.current;
  }
  if (trial.current < trial.candidates.size()) {
    StartTrialRead(session);
  } else {
    FinishTrial(session);
  }
}

void UcxRowReader::FinishTrial(ReaderSession& session) {
  const std::unique_ptr<WayTrial> trial = std::move(session.trial);
  const WayTrial::Candidate* taken = nullptr;
  std::string results;
  for (const WayTrial::Candidate& candidate : trial->candidates) {
    if (!results.empty()) results += "; ";
    results += std::string(ReadWayName(candidate.way)) + ": ";
    if (candidate.status != StatusCode::kOk) {
      results += StatusCodeName(candidate.status);
    } else if (candidate.wrong_rows > 0) {
      results += std::to_string(candidate.wrong_rows) + " rows differ from gather's";
    } else {
      results += NanosecondsPerRow(candidate.best);
      const bool allowed = options_.way == ReadWay::kAuto || options_.way == candidate.way;
      if (allowed && (taken == nullptr || candidate.best < taken->best)) taken = &candidate;
    }
  }
  if (taken == nullptr) {
    EndLater(session, Status(StatusCode::kFailedPrecondition, "no way to read works: " + results));
    return;
  }
  session.way = taken->way;
  session.reason = options_.way == ReadWay::kAuto ? "the fastest" : "forced";
  session.reason += " (" + results + ")";
  if (session.way == ReadWay::kOneSided && session.window->landed != nullptr) {
    session.reason += "; rows land in the GPU's memory";
  }
  if (!session.ways_off.empty()) session.reason += "; " + session.ways_off;
  BecomeOpen(session);
}

void UcxRowReader::BecomeOpen(ReaderSession& session) {
  spdlog::debug("session with {} reads {}: {}", session.target.address, ReadWayName(session.way),
                session.reason);
  if (session.state == ReaderSession::State::kOpen) return;
  session.state = ReaderSession::State::kOpen;
  SessionInfo info;
  info.incarnation = session.incarnation;
  info.way = session.way;
  info.reason = session.reason;
  events_->OnOpen(session.id, info);
}

}  // namespace engram
