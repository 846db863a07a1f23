// What a gather thread answers. Every byte that comes in is checked in gather_message.cc first.
#include <algorithm>

#include <spdlog/spdlog.h>

#include "engram/transport/row_copy.h"
#include "engram/transport/ucx/gather_thread.h"
#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {

// Rows that are answered before the thread looks again at what has come.
constexpr uint32_t kTurnRows = 1024;
constexpr std::chrono::microseconds kRetryAfterMin{500};
constexpr std::chrono::microseconds kRetryAfterMax{1'000'000};

}  // namespace

bool GatherThread::OnMessage(uint32_t id, const UcxMessage& message) {
  switch (static_cast<GatherMessageId>(id)) {
    case GatherMessageId::kRequest:
      OnGatherRequest(message);
      return false;
    case GatherMessageId::kLeaseRequest:
      OnLeaseRequest(message);
      return false;
    default:
      Refuse("a message that readers do not send");
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

// At the first message, so that UCX finds the connection that it came over and makes none (but for
// a port that another reader had before). UCX 1.13 ends the process when a connection it makes
// fails at a certain moment, as that to a reader that has just ended does, and any reader could
// name an address that fails so.
bool GatherThread::Connect(Session& session) {
  if (session.endpoint != nullptr) return true;
  auto endpoint = UcxEndpoint::Create(*worker_, session.peer_worker_address);
  if (endpoint.has_value()) {
    session.endpoint = *std::move(endpoint);
    return true;
  }
  if (session.end_with.ok()) session.end_with = endpoint.error();
  next_house_keeping_ = MonotonicTime::min();
  return false;
}

void GatherThread::OnGatherRequest(const UcxMessage& message) {
  const auto decoded = DecodeGatherRequest(message.header, message.body_bytes);
  const GatherRequestHeader& request = decoded.header;
  Session* const session = decoded.has_header ? Find(request.session) : nullptr;
  if (session == nullptr) {
    Refuse(decoded.has_header ? "a gather of an unknown session" : decoded.fault);
    return;
  }
  session->last_sign_of_life = std::chrono::steady_clock::now();
  if (!Connect(*session)) return;
  if (message.rendezvous) {
    // Readers send requests at once: they are 32 KiB at most. A body that is announced only might
    // never come, and would keep its room until then.
    Refuse("a gather whose addresses did not come with it");
    RefuseRead(*session, request, StatusCode::kMalformed);
    return;
  }
  StatusCode status = decoded.status;
  if (status == StatusCode::kOk) status = CheckRequest(*session, request);
  if (status != StatusCode::kOk) {
    Refuse(decoded.status != StatusCode::kOk ? decoded.fault : "a gather that may not be answered");
    RefuseRead(*session, request, status);
    return;
  }
  if (!queue_.Admit(session->client, request.row_count)) {
    counters_.refused_busy.fetch_add(1, std::memory_order_relaxed);
    RefuseRead(*session, request, StatusCode::kResourceExhausted);
    return;
  }
  WaitingRead* const read = TakeWaitingRead(*session, request);
  ++session->reads_in_progress;
  std::memcpy(read->addresses.data(), message.data, message.body_bytes);
  queue_.Push(read->client, read);
}

GatherThread::WaitingRead* GatherThread::TakeWaitingRead(const Session& session,
                                                         const GatherRequestHeader& request) {
  if (free_waiting_reads_.empty()) {
    waiting_reads_.push_back(std::make_unique<WaitingRead>());
    free_waiting_reads_.reserve(waiting_reads_.size());
    free_waiting_reads_.push_back(waiting_reads_.back().get());
  }
  WaitingRead* const read = free_waiting_reads_.back();
  free_waiting_reads_.pop_back();
  read->client = session.client;
  read->header = request;
  read->came_at = session.last_sign_of_life;
  read->rows = request.row_count;
  read->wanted_by = request.wanted_within_us == 0
                        ? MonotonicTime::max()
                        : read->came_at + std::chrono::microseconds(request.wanted_within_us);
  addresses_held_ -= read->addresses.capacity();
  read->addresses.resize(request.row_count);
  addresses_held_ += read->addresses.capacity();
  return read;
}

void GatherThread::FreeRead(WaitingRead* read) {
  // Memory of long reads stays with the objects that had them, which are others by and by.
  if (addresses_held_ > 2 * options_.queue.rows_max) {
    addresses_held_ -= read->addresses.capacity();
    read->addresses = {};
  }
  free_waiting_reads_.push_back(read);
}

bool GatherThread::MayHaveBuffer(const ServedClient& client) const {
  const uint32_t most = std::max(1u, options_.reply_buffers_max / 4);
  return client.replies < most &&
         ShareLeft(replies_.free_count(), client.holder->replies, client.replies) > 0;
}

bool GatherThread::AnswerNext() {
  uint32_t rows = 0;
  while (rows < kTurnRows && queue_.Front() != nullptr) {
    QueuedClient* const front = queue_.Front();
    if (MayHaveBuffer(static_cast<ServedClient&>(*front))) {
      rows += AnswerRead(static_cast<WaitingRead*>(queue_.Pop(front)));
    } else {
      queue_.SetAside(front);
    }
  }
  counters_.rows_waiting.store(queue_.rows_waiting(), std::memory_order_relaxed);
  return rows > 0;
}

uint32_t GatherThread::AnswerRead(WaitingRead* read) {
  if (Session* const session = Find(read->header.session); session != nullptr) {
    if (session->finder != nullptr && read->wanted_by > std::chrono::steady_clock::now()) {
      Answer(*session, *read);
    } else {
      --session->reads_in_progress;
      const bool dropped = session->finder == nullptr;
      if (!dropped) counters_.expired.fetch_add(1, std::memory_order_relaxed);
      RefuseRead(*session, read->header,
                 dropped ? StatusCode::kWrongVersion : StatusCode::kDeadlineExceeded);
    }
  }
  ForgetIfUnused(read->client);
  FreeRead(read);
  return read->rows;
}

void GatherThread::Answer(Session& session, const WaitingRead& read) {
  const MonotonicTime begin = std::chrono::steady_clock::now();
  ReplyBuffer* const buffer = replies_.Take();  // there is one: MayHaveBuffer
  buffer->client = session.client;
  ++session.client->replies;
  ++session.client->holder->replies;
  const SlotFinder& finder = *session.finder;
  const uint32_t count = read.rows;
  const uint32_t stride = finder.row_stride();
  std::byte* const rows = buffer->Reserve(ReplyBodyBytes(count, stride, /*has_statuses=*/true));
  const uint32_t found = CopyRows([&](RowAddress address) { return finder.Find(address); },
                                  [&](uint32_t i) { return RowAddress(read.addresses[i]); }, count,
                                  stride, rows, buffer->statuses);
  buffer->header = {};
  buffer->header.row_count = count;
  buffer->header.session = session.id;
  buffer->header.read = read.header.read;
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
  const MonotonicTime end = std::chrono::steady_clock::now();
  counters_.gather_times.Add(static_cast<uint64_t>(Duration(end - read.came_at).count()));
  const double row_ns = static_cast<double>(Duration(end - begin).count()) / count;
  row_ns_ += (row_ns - row_ns_) / 64;
}

std::chrono::microseconds GatherThread::Backlog() const {
  const auto us = static_cast<int64_t>(row_ns_ * static_cast<double>(queue_.rows_waiting()) / 1e3);
  return std::chrono::microseconds(
      std::clamp<int64_t>(us, kRetryAfterMin.count(), kRetryAfterMax.count()));
}

void GatherThread::RefuseRead(Session& session, const GatherRequestHeader& request,
                              StatusCode status) {
  if (session.refusals >= kReadsInFlightMax) return;  // it takes none
  if (free_refusals_.empty()) {
    refusals_.push_back(std::make_unique<RefusalBuffer>());
    refusals_.back()->thread = this;
    free_refusals_.push_back(refusals_.back().get());
  }
  RefusalBuffer* const buffer = free_refusals_.back();
  buffer->header = {};
  buffer->header.session = session.id;
  buffer->header.read = request.read;
  buffer->header.status = static_cast<uint32_t>(status);
  if (status == StatusCode::kResourceExhausted) {
    buffer->header.retry_after_us = static_cast<uint32_t>(Backlog().count());
  }
  if (session.finder != nullptr) {
    buffer->header.newest_epoch = session.finder->slots().newest_epoch().value();
  }
  const UcxStarted started = session.endpoint->Send(
      static_cast<uint32_t>(GatherMessageId::kReply),
      EncodeGatherReply(&buffer->header, session.protocol), {}, /*eager=*/true, buffer);
  if (started != UcxStarted::kPending) return;
  free_refusals_.pop_back();
  NoteSent(session, &session.refusals);
}

void GatherThread::RefusalBuffer::OnComplete(ucs_status_t /*status*/) {
  if (Session* const session = thread->Find(header.session); session != nullptr) {
    NoteLeft(*session, &session->refusals);
  }
  thread->free_refusals_.push_back(this);
}

void GatherThread::SendReply(Session& session, ReplyBuffer* buffer, size_t body_bytes) {
  NoteSent(session, &session.replies);
  const UcxStarted started = session.endpoint->Send(
      static_cast<uint32_t>(GatherMessageId::kReply),
      EncodeGatherReply(&buffer->header, session.protocol), {buffer->body(), body_bytes},
      body_bytes <= options_.eager_reply_bytes_max, buffer);
  if (started == UcxStarted::kDone) replies_.GiveBack(buffer, UCS_OK);
  if (started == UcxStarted::kFailed) replies_.GiveBack(buffer, UCS_ERR_IO_ERROR);
}

void GatherThread::OnReplySent(const ReplyBuffer& buffer, ucs_status_t status) {
  --buffer.client->replies;
  --buffer.client->holder->replies;
  queue_.BringBack();
  ForgetIfUnused(buffer.client);
  Session* const session = Find(buffer.header.session);
  if (session == nullptr) return;
  --session->reads_in_progress;
  NoteLeft(*session, &session->replies);
  if (status != UCS_OK && session->end_with.ok()) {
    session->end_with = UcxStatus(status, "sending a reply");
    next_house_keeping_ = MonotonicTime::min();
  }
}

void GatherThread::NoteSent(Session& session, uint32_t* count) {
  session.taking.Sent();
  ++*count;
}

void GatherThread::NoteLeft(Session& session, uint32_t* count) {
  --*count;
  session.taking.Left();
}

void GatherThread::ForgetIfUnused(ServedClient* client) {
  if (client->sessions != 0 || client->replies != 0 || !client->empty()) return;
  ServedHolder* const holder = client->holder;
  clients_.erase({holder, client->id});
  if (--holder->clients == 0) holders_.erase(std::string(holder->name));
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
  if (!Connect(*session)) return;
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
  constexpr uint32_t kGrantsMax = 8;
  if (session.endpoint == nullptr) return;   // it has asked for nothing yet
  if (session.grants >= kGrantsMax) return;  // it does not take them
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
    NoteSent(session, &session.grants);
  } else {
    free_grants_.push_back(buffer);
  }
}

void GatherThread::GrantBuffer::OnComplete(ucs_status_t /*status*/) {
  if (Session* const session = thread->Find(grant.session); session != nullptr) {
    NoteLeft(*session, &session->grants);
  }
  thread->free_grants_.push_back(this);
}

}  // namespace engram
