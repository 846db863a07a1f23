#include "engram/transport/gather_message.h"

#include <algorithm>
#include <cstring>

namespace engram {
namespace {

template <typename Header>
Decoded<Header> Refuse(Decoded<Header> decoded, StatusCode status, const char* fault) {
  decoded.status = status;
  decoded.fault = fault;
  return decoded;
}

// Length and magic; the rest is for each message.
template <typename Header>
Decoded<Header> DecodeHeader(std::span<const std::byte> header) {
  Decoded<Header> decoded;
  if (header.size() != sizeof(Header)) {
    return Refuse(decoded, StatusCode::kMalformed, "the header has the wrong length");
  }
  const uint32_t magic = decoded.header.magic;
  std::memcpy(&decoded.header, header.data(), sizeof(Header));
  if (decoded.header.magic != magic) {
    return Refuse(decoded, StatusCode::kMalformed, "the header's first word is not its format's");
  }
  decoded.has_header = true;
  return decoded;
}

// Format 1 is the beginning of format 2, and zeros mean the same as no field.
template <typename Header>
Decoded<Header> DecodeEitherFormat(std::span<const std::byte> header, size_t bytes1,
                                   uint32_t magic1) {
  if (header.size() != bytes1) return DecodeHeader<Header>(header);
  Decoded<Header> decoded;
  const uint32_t magic = decoded.header.magic;
  std::memcpy(&decoded.header, header.data(), bytes1);
  if (decoded.header.magic != magic1) {
    return Refuse(decoded, StatusCode::kMalformed, "the header's first word is not its format's");
  }
  decoded.header.magic = magic;
  decoded.has_header = true;
  return decoded;
}

template <typename Header>
std::span<const std::byte> Encode(Header* header, size_t bytes1, uint32_t magic1, bool first) {
  header->magic = first ? magic1 : Header().magic;
  const auto bytes = std::as_bytes(std::span(header, 1));
  return first ? bytes.first(bytes1) : bytes;
}

}  // namespace

std::span<const std::byte> EncodeGatherRequest(GatherRequestHeader* header, uint32_t protocol) {
  return Encode(header, kGatherRequestBytes1, kGatherRequestMagic1, protocol == 1);
}

std::span<const std::byte> EncodeGatherReply(GatherReplyHeader* header, uint32_t protocol) {
  return Encode(header, kGatherReplyBytes1, kGatherReplyMagic1, protocol == 1);
}

Decoded<GatherRequestHeader> DecodeGatherRequest(std::span<const std::byte> header,
                                                 uint64_t body_bytes) {
  auto decoded =
      DecodeEitherFormat<GatherRequestHeader>(header, kGatherRequestBytes1, kGatherRequestMagic1);
  if (decoded.status != StatusCode::kOk) return decoded;
  const uint32_t count = decoded.header.row_count;
  if (count == 0 || count > kReadRowsMax) {
    return Refuse(decoded, StatusCode::kInvalidArgument, "row_count is 0 or above kReadRowsMax");
  }
  if (body_bytes != uint64_t{count} * sizeof(uint64_t)) {
    return Refuse(decoded, StatusCode::kMalformed, "the body is not row_count addresses");
  }
  if (decoded.header.reserved != 0) {
    return Refuse(decoded, StatusCode::kMalformed, "reserved is not 0");
  }
  return decoded;
}

Decoded<GatherReplyHeader> DecodeGatherReply(std::span<const std::byte> header, uint64_t body_bytes,
                                             uint32_t row_stride) {
  auto decoded =
      DecodeEitherFormat<GatherReplyHeader>(header, kGatherReplyBytes1, kGatherReplyMagic1);
  if (decoded.status != StatusCode::kOk) return decoded;
  const GatherReplyHeader& reply = decoded.header;
  if (reply.status >= static_cast<uint32_t>(kStatusCodeCount)) {
    return Refuse(decoded, StatusCode::kMalformed, "the status is not a StatusCode");
  }
  if ((reply.flags & ~kReplyHasStatuses) != 0) {
    return Refuse(decoded, StatusCode::kMalformed, "a flag is set that no format has");
  }
  if (reply.row_count > kReadRowsMax || reply.reserved != 0) {
    return Refuse(decoded, StatusCode::kMalformed, "row_count or reserved is out of range");
  }
  const bool ok = reply.status == static_cast<uint32_t>(StatusCode::kOk);
  const bool has_statuses = (reply.flags & kReplyHasStatuses) != 0;
  const uint64_t expected = ok ? ReplyBodyBytes(reply.row_count, row_stride, has_statuses) : 0;
  if (body_bytes != expected || (ok && reply.row_count == 0)) {
    return Refuse(decoded, StatusCode::kMalformed, "the body is not row_count rows");
  }
  return decoded;
}

Decoded<LeaseRequest> DecodeLeaseRequest(std::span<const std::byte> header, uint64_t body_bytes) {
  auto decoded = DecodeHeader<LeaseRequest>(header);
  if (decoded.status != StatusCode::kOk) return decoded;
  if (body_bytes != 0) {
    return Refuse(decoded, StatusCode::kMalformed, "a lease request has no body");
  }
  if (decoded.header.sequence == 0 || decoded.header.reserved != 0) {
    return Refuse(decoded, StatusCode::kMalformed, "sequence is 0 or reserved is not");
  }
  return decoded;
}

Decoded<LeaseGrant> DecodeLeaseGrant(std::span<const std::byte> header, uint64_t body_bytes) {
  auto decoded = DecodeHeader<LeaseGrant>(header);
  if (decoded.status != StatusCode::kOk) return decoded;
  if (body_bytes != 0) {
    return Refuse(decoded, StatusCode::kMalformed, "a lease grant has no body");
  }
  if (decoded.header.status >= static_cast<uint32_t>(kStatusCodeCount) ||
      decoded.header.reserved != 0) {
    return Refuse(decoded, StatusCode::kMalformed, "status or reserved is out of range");
  }
  return decoded;
}

uint64_t SessionOfReply(std::span<const std::byte> header) {
  static_assert(offsetof(GatherReplyHeader, session) == offsetof(LeaseGrant, session));
  constexpr size_t kAt = offsetof(GatherReplyHeader, session);
  uint64_t session = 0;
  if (header.size() < kAt + sizeof(session)) return 0;
  std::memcpy(&session, header.data() + kAt, sizeof(session));
  return session;
}

bool AreStatusCodes(std::span<const std::byte> statuses) {
  return std::all_of(statuses.begin(), statuses.end(),
                     [](std::byte status) { return static_cast<int>(status) < kStatusCodeCount; });
}

}  // namespace engram
