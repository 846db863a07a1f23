// What a gather thread answers. Every byte that comes in is checked in gather_message.cc first.
#include <spdlog/spdlog.h>

#include "engram/transport/row_copy.h"
#include "engram/transport/ucx/gather_thread.h"
#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {

// A body may start at any byte.
RowAddress LoadAddress(const std::byte* addresses, uint32_t i) {
  uint64_t address = 0;
  std::memcpy(&address, addresses + size_t{i} * sizeof(address), sizeof(address));
  return RowAddress(address);
}

}  // namespace

bool GatherThread::OnMessage(uint32_t id, const UcxMessage& message) {
  switch (static_cast<GatherMessageId>(id)) {
    case GatherMessageId::kRequest:
      return OnGatherRequest(message);
    case GatherMessageId::kLeaseRequest:
      OnLeaseRequest(message);
      return false;
    default:
      Refuse("a message that only nodes send");
      return false;
  }
}

void GatherThread::Refuse(const char* fault) {
  const uint64_t refused = counters_.refused.fetch_add(1, std::memory_order_relaxed) + 1;
  // Powers of two only: a peer that sends rubbish does not fill the log. A reader that closes
  // leaves messages on their way, so this alone is no alarm.
  if ((refused & (refused - 1)) == 0) spdlog::info("refused message {}: {}", refused, fault);
}

GatherThread::Session* GatherThread::Find(uint64_t id) {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second.get();
}

StatusCode GatherThread::CheckRequest(const Session& session,
                                      const GatherRequestHeader& request) const {
  if (request.incarnation != options_.incarnation.value()) return StatusCode::kWrongIncarnation;
  if (session.finder == nullptr || request.version != session.version.value()) {
    return StatusCode::kWrongVersion;
  }
  if (session.reads_in_progress >= kReadsInFlightMax) return StatusCode::kResourceExhausted;
  return StatusCode::kOk;
}

bool GatherThread::OnGatherRequest(const UcxMessage& message) {
  const auto decoded = DecodeGatherRequest(message.header, message.body_bytes);
  Session* const session = decoded.has_header ? Find(decoded.header.session) : nullptr;
  if (session == nullptr) {
    Refuse(decoded.has_header ? "a gather of an unknown session" : decoded.fault);
    return false;
  }
  session->last_sign_of_life = std::chrono::steady_clock::now();
  StatusCode status = decoded.status;
  if (status == StatusCode::kOk) status = CheckRequest(*session, decoded.header);
  if (status != StatusCode::kOk) {
    Refuse(decoded.status != StatusCode::kOk ? decoded.fault : "a gather that may not be answered");
    AnswerStatus(*session, decoded.header, status);
    return false;
  }
  if (!message.rendezvous) {
    if (ReplyBuffer* const buffer = TakeBuffer(*session); buffer != nullptr) {
      ++session->reads_in_progress;
      Answer(*session, decoded.header, session->last_sign_of_life,
             static_cast<const std::byte*>(message.data), buffer);
      return false;
    }
  }
  WaitingRead* const read = TakeWaitingRead();
  read->header = decoded.header;
  read->came_at = session->last_sign_of_life;
  read->addresses.resize(decoded.header.row_count);
  ++session->reads_in_progress;
  if (!message.rendezvous) {
    std::memcpy(read->addresses.data(), message.data, message.body_bytes);
    waiting_for_buffer_.push_back(read);
    return false;
  }
  const UcxStarted started =
      worker_->Receive(message, reinterpret_cast<std::byte*>(read->addresses.data()), read);
  if (started == UcxStarted::kDone) waiting_for_buffer_.push_back(read);
  if (started == UcxStarted::kFailed) {
    --session->reads_in_progress;
    free_waiting_reads_.push_back(read);
    AnswerStatus(*session, decoded.header, StatusCode::kIo);
  }
  return true;
}

GatherThread::WaitingRead* GatherThread::TakeWaitingRead() {
  if (free_waiting_reads_.empty()) {
    waiting_reads_.push_back(std::make_unique<WaitingRead>());
    waiting_reads_.back()->thread = this;
    free_waiting_reads_.push_back(waiting_reads_.back().get());
  }
  WaitingRead* const read = free_waiting_reads_.back();
  free_waiting_reads_.pop_back();
  return read;
}

// The body of a rendezvous request is here.
void GatherThread::WaitingRead::OnComplete(ucs_status_t status) {
  if (status == UCS_OK) {
    thread->waiting_for_buffer_.push_back(this);
    return;
  }
  if (Session* const session = thread->Find(header.session); session != nullptr) {
    --session->reads_in_progress;
  }
  thread->free_waiting_reads_.push_back(this);
}

ReplyBuffer* GatherThread::TakeBuffer(Session& session) {
  if (session.buffers_in_use >= buffers_per_session()) return nullptr;
  ReplyBuffer* const buffer = replies_.Take();
  if (buffer != nullptr) ++session.buffers_in_use;
  return buffer;
}

void GatherThread::AnswerWaiting() {
  std::erase_if(waiting_for_buffer_, [this](WaitingRead* read) {
    if (Session* const session = Find(read->header.session); session != nullptr) {
      ReplyBuffer* const buffer = TakeBuffer(*session);
      if (buffer == nullptr) return false;
      const auto* const addresses = reinterpret_cast<const std::byte*>(read->addresses.data());
      if (session->finder != nullptr) {
        Answer(*session, read->header, read->came_at, addresses, buffer);
      } else {  // dropped while the read waited
        SendStatus(*session, read->header, StatusCode::kWrongVersion, buffer);
      }
    }
    free_waiting_reads_.push_back(read);
    return true;
  });
}

void GatherThread::Answer(Session& session, const GatherRequestHeader& request,
                          MonotonicTime came_at, const std::byte* addresses, ReplyBuffer* buffer) {
  const SlotFinder& finder = *session.finder;
  const uint32_t count = request.row_count;
  const uint32_t stride = finder.row_stride();
  std::byte* const rows = buffer->Reserve(ReplyBodyBytes(count, stride, /*has_statuses=*/true));
  const uint32_t found = CopyRows([&](RowAddress address) { return finder.Find(address); },
                                  [&](uint32_t i) { return LoadAddress(addresses, i); }, count,
                                  stride, rows, buffer->statuses);
  buffer->header = {};
  buffer->header.row_count = count;
  buffer->header.session = session.id;
  buffer->header.read = request.read;
  buffer->header.newest_epoch = finder.slots().newest_epoch().value();
  if (found != count) {
    buffer->header.flags = kReplyHasStatuses;
    std::memcpy(rows + size_t{count} * stride, buffer->statuses, count);
    uint32_t not_owned = 0;
    for (uint32_t i = 0; i < count; ++i) not_owned += buffer->statuses[i] == StatusCode::kNotOwned;
    counters_.rows_not_owned.fetch_add(not_owned, std::memory_order_relaxed);
    counters_.rows_out_of_range.fetch_add(count - found - not_owned, std::memory_order_relaxed);
  }
  counters_.reads.fetch_add(1, std::memory_order_relaxed);
  counters_.rows.fetch_add(found, std::memory_order_relaxed);
  const size_t body_bytes = ReplyBodyBytes(count, stride, found != count);
  counters_.bytes.fetch_add(sizeof(buffer->header) + body_bytes, std::memory_order_relaxed);
  SendReply(session, buffer, body_bytes);
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - came_at;
  counters_.gather_times.Add(static_cast<uint64_t>(took.count()));
}

void GatherThread::AnswerStatus(Session& session, const GatherRequestHeader& request,
                                StatusCode status) {
  ReplyBuffer* const buffer = TakeBuffer(session);
  // None left to refuse with: the reader does not take its replies, and its deadline ends the read.
  if (buffer == nullptr) return;
  ++session.reads_in_progress;
  SendStatus(session, request, status, buffer);
}

void GatherThread::SendStatus(Session& session, const GatherRequestHeader& request,
                              StatusCode status, ReplyBuffer* buffer) {
  buffer->header = {};
  buffer->header.session = session.id;
  buffer->header.read = request.read;
  buffer->header.status = static_cast<uint32_t>(status);
  if (session.finder != nullptr) {
    buffer->header.newest_epoch = session.finder->slots().newest_epoch().value();
  }
  SendReply(session, buffer, 0);
}

void GatherThread::SendReply(Session& session, ReplyBuffer* buffer, size_t body_bytes) {
  const UcxStarted started = session.endpoint->Send(
      static_cast<uint32_t>(GatherMessageId::kReply), std::as_bytes(std::span(&buffer->header, 1)),
      {buffer->body(), body_bytes}, body_bytes <= options_.eager_reply_bytes_max, buffer);
  if (started == UcxStarted::kDone) replies_.GiveBack(buffer, UCS_OK);
  if (started == UcxStarted::kFailed) replies_.GiveBack(buffer, UCS_ERR_IO_ERROR);
}

void GatherThread::OnReplySent(uint64_t id, ucs_status_t status) {
  Session* const session = Find(id);
  if (session == nullptr) return;
  --session->reads_in_progress;
  --session->buffers_in_use;
  if (status != UCS_OK && session->end_with.ok()) {
    session->end_with = UcxStatus(status, "sending a reply");
    next_house_keeping_ = MonotonicTime::min();
  }
}

void GatherThread::OnLeaseRequest(const UcxMessage& message) {
  const auto decoded = DecodeLeaseRequest(message.header, message.body_bytes);
  Session* const session =
      decoded.status == StatusCode::kOk ? Find(decoded.header.session) : nullptr;
  if (session == nullptr || message.rendezvous) {
    Refuse(decoded.status == StatusCode::kOk ? "a lease request of an unknown session"
                                             : decoded.fault);
    return;
  }
  const LeaseRequest& request = decoded.header;
  const MonotonicTime now = std::chrono::steady_clock::now();
  session->last_sign_of_life = now;
  LeaseGrant grant;
  grant.session = session->id;
  grant.sequence = request.sequence;
  if (request.incarnation != options_.incarnation.value()) {
    grant.status = static_cast<uint32_t>(StatusCode::kWrongIncarnation);
  } else if (session->finder == nullptr || request.version != session->version.value()) {
    grant.status = static_cast<uint32_t>(StatusCode::kWrongVersion);
  } else {
    const ServedSlots& slots = session->finder->slots();
    grant.newest_epoch = slots.newest_epoch().value();
    grant.generation = slots.generation();
    const bool grants =
        options_.lease.count() > 0 && !hooks_->withhold_leases.load(std::memory_order_relaxed);
    const ReaderProgress progress{Epoch(request.acknowledged_epoch), request.directory_generation};
    if (leases_->Renew(session->id, progress,
                       grants ? now + options_.lease : MonotonicTime::min())) {
      grant.lease_ms = static_cast<uint32_t>(options_.lease.count());
    }
  }
  SendGrant(*session, grant);
}

void GatherThread::SendGrant(Session& session, const LeaseGrant& grant) {
  constexpr uint32_t kGrantsInProgressMax = 8;
  if (session.grants_in_progress >= kGrantsInProgressMax) return;  // it does not take them
  if (free_grants_.empty()) {
    grants_.push_back(std::make_unique<GrantBuffer>());
    grants_.back()->thread = this;
    free_grants_.push_back(grants_.back().get());
  }
  GrantBuffer* const buffer = free_grants_.back();
  free_grants_.pop_back();
  buffer->grant = grant;
  const UcxStarted started = session.endpoint->Send(
      static_cast<uint32_t>(GatherMessageId::kLeaseGrant),
      std::as_bytes(std::span(&buffer->grant, 1)), {}, /*eager=*/true, buffer);
  if (started == UcxStarted::kPending) {
    ++session.grants_in_progress;
  } else {
    free_grants_.push_back(buffer);
  }
}

void GatherThread::GrantBuffer::OnComplete(ucs_status_t /*status*/) {
  if (Session* const session = thread->Find(grant.session); session != nullptr) {
    --session->grants_in_progress;
  }
  thread->free_grants_.push_back(this);
}

}  // namespace engram
