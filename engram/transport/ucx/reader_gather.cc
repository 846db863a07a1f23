// Gather: one request, one reply with the rows, delivered from where UCX received them.
#include <algorithm>
#include <bit>
#include <cstring>

#include "engram/transport/ucx/ucx_row_reader.h"

namespace engram {
namespace {

// For GatherRequestHeader::wanted_within_us.
uint32_t WantedWithin(MonotonicTime wanted_by) {
  if (wanted_by == MonotonicTime::max()) return 0;
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(
      wanted_by - std::chrono::steady_clock::now());
  return static_cast<uint32_t>(std::clamp<int64_t>(left.count(), 1, UINT32_MAX));
}

}  // namespace

void PendingRead::RequestSent::OnComplete(ucs_status_t status) {
  read->reader->OnRequestSent(*read, status);
}

void PendingRead::BodyReceived::OnComplete(ucs_status_t status) {
  read->reader->OnBodyReceived(*read, status);
}

bool UcxRowReader::SendGather(PendingRead& read, uint32_t first) {
  ReaderSession& session = *read.session;
  read.gather_first = first;
  read.awaits_reply = true;
  const auto count = static_cast<uint32_t>(read.rows.size()) - first;
  read.request = {};
  read.request.row_count = count;
  read.request.session = session.number;
  read.request.version = session.target.version.value();
  read.request.incarnation = session.incarnation.value();
  read.request.epoch = session.acknowledged.value();
  read.request.read = read.id();
  read.request.wanted_within_us = WantedWithin(read.wanted_by);
  const UcxStarted started = session.endpoint->Send(
      static_cast<uint32_t>(GatherMessageId::kRequest),
      EncodeGatherRequest(&read.request, session.protocol),
      std::as_bytes(std::span(read.rows).subspan(first)), /*eager=*/true, &read.sent);
  if (started == UcxStarted::kPending) ++read.holds;
  if (started != UcxStarted::kFailed) return true;
  EndLater(session, Status(StatusCode::kPeerLost, "the node does not take requests"));
  return false;
}

void UcxRowReader::OnRequestSent(PendingRead& read, ucs_status_t status) {
  if (status != UCS_OK && read.session != nullptr) {
    EndLater(*read.session, Status(StatusCode::kPeerLost,
                                   std::string("sending a request: ") + ucs_status_string(status)));
  }
  DropHold(read);
}

bool UcxRowReader::OnMessage(uint32_t id, const UcxMessage& message) {
  if (id == static_cast<uint32_t>(GatherMessageId::kReply)) return OnReply(message);
  if (id == static_cast<uint32_t>(GatherMessageId::kLeaseGrant)) OnGrant(message);
  return false;  // a message that only readers send: not ours to answer
}

bool UcxRowReader::OnReply(const UcxMessage& message) {
  const auto found = by_number_.find(SessionOfReply(message.header));
  if (found == by_number_.end()) return false;  // its session has ended
  ReaderSession& session = *found->second;
  const auto decoded =
      DecodeGatherReply(message.header, message.body_bytes, session.target.row_stride);
  if (decoded.status != StatusCode::kOk) {
    EndLater(session, Status(decoded.status, std::string("a reply: ") + decoded.fault));
    return false;
  }
  session.last_heard = std::chrono::steady_clock::now();
  const GatherReplyHeader& reply = decoded.header;
  TellEpoch(session, Epoch(reply.newest_epoch));
  const auto index = static_cast<uint32_t>(reply.read);
  PendingRead* const read = index < reads_.size() ? reads_[index].get() : nullptr;
  if (read == nullptr || read->id() != reply.read || read->session != &session ||
      !read->awaits_reply) {
    return false;  // late: its read has ended
  }
  const auto status = static_cast<StatusCode>(reply.status);
  if (status == StatusCode::kOk && reply.row_count != read->rows.size() - read->gather_first) {
    EndLater(session, Status(StatusCode::kMalformed, "a reply of another number of rows"));
    return false;
  }
  read->awaits_reply = false;
  if (status != StatusCode::kOk) {
    if (status == StatusCode::kWrongVersion || status == StatusCode::kWrongIncarnation) {
      EndLater(session, Status(status, "the node refuses this session's reads"));
    }
    if (status == StatusCode::kResourceExhausted && !read->trial) {
      events_->OnBusy(session.id, std::chrono::microseconds(reply.retry_after_us));
    }
    FinishRead(*read, status);
    return false;
  }
  if (!message.rendezvous) {
    DeliverReply(*read, reply, static_cast<const std::byte*>(message.data));
    return false;
  }
  if (message.body_bytes > read->body_capacity) {
    read->body_capacity = std::bit_ceil(message.body_bytes);
    read->body = std::make_unique_for_overwrite<std::byte[]>(read->body_capacity);
  }
  read->reply = reply;
  read->body_bytes = message.body_bytes;
  ++read->holds;
  const UcxStarted started = worker_->Receive(message, read->body.get(), &read->received);
  if (started == UcxStarted::kDone) OnBodyReceived(*read, UCS_OK);
  if (started == UcxStarted::kFailed) OnBodyReceived(*read, UCS_ERR_IO_ERROR);
  return true;
}

void UcxRowReader::OnBodyReceived(PendingRead& read, ucs_status_t status) {
  if (read.session == nullptr) {
    DropHold(read);
    return;
  }
  if (status == UCS_OK) {
    DeliverReply(read, read.reply, read.body.get());
  } else {
    EndLater(*read.session, Status(StatusCode::kPeerLost,
                                   std::string("receiving rows: ") + ucs_status_string(status)));
  }
  DropHold(read);
}

void UcxRowReader::DeliverReply(PendingRead& read, const GatherReplyHeader& reply,
                                const std::byte* body) {
  RowChunk chunk;
  chunk.first = read.gather_first;
  chunk.count = reply.row_count;
  chunk.rows = body;
  if ((reply.flags & kReplyHasStatuses) != 0) {
    const std::byte* const statuses =
        body + uint64_t{reply.row_count} * read.session->target.row_stride;
    if (!AreStatusCodes({statuses, reply.row_count})) {
      EndLater(*read.session, Status(StatusCode::kMalformed, "a row's status is not a StatusCode"));
      return;
    }
    std::memcpy(statuses_.data(), statuses, reply.row_count);
    chunk.statuses = statuses_.data();
  }
  Deliver(read, chunk);
  FinishRead(read, StatusCode::kOk);
}

}  // namespace engram
