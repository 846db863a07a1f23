// The messages of a data session (docs/formats/gather.md): fixed little-endian headers, checked
// before use. Pure: bytes in, structs out.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "engram/base/status.h"
#include "engram/transport/row_reader.h"

namespace engram {

static_assert(std::endian::native == std::endian::little, "the wire format is little-endian");

enum class GatherMessageId : uint32_t {
  kRequest = 1,       // reader -> node
  kReply = 2,         // node -> reader
  kLeaseRequest = 3,  // reader -> node; also the sign of life
  kLeaseGrant = 4,    // node -> reader
};

// What a session speaks, agreed when it opens: the older of what both sides know.
inline constexpr uint32_t kDataProtocol = 2;
inline constexpr uint32_t kDataProtocolMin = 1;  // without the last words of requests and replies

// The first word of every header; its last character is the format's number.
inline constexpr uint32_t kGatherRequestMagic = 0x32515247;   // "GRQ2"
inline constexpr uint32_t kGatherRequestMagic1 = 0x31515247;  // "GRQ1"
inline constexpr uint32_t kGatherReplyMagic = 0x32505247;     // "GRP2"
inline constexpr uint32_t kGatherReplyMagic1 = 0x31505247;    // "GRP1"
inline constexpr uint32_t kLeaseRequestMagic = 0x3251524c;    // "LRQ2"
inline constexpr uint32_t kLeaseGrantMagic = 0x3154474c;      // "LGT1"

// Body: row_count RowAddress values of 8 bytes.
struct GatherRequestHeader {
  uint32_t magic = kGatherRequestMagic;
  uint32_t row_count = 0;  // 1..kReadRowsMax
  uint64_t session = 0;    // OpenSessionReply.session
  uint64_t version = 0;
  uint64_t incarnation = 0;
  uint64_t epoch = 0;  // of the reader's shard map: told, never compared to refuse
  uint64_t read = 0;   // comes back in the reply
  // From here on format 2 only.
  uint32_t wanted_within_us = 0;  // of its sending; then the rows are of no use. 0 = whenever
  uint32_t reserved = 0;          // 0
};
inline constexpr size_t kGatherRequestBytes1 = 48;
static_assert(sizeof(GatherRequestHeader) == 56);
static_assert(offsetof(GatherRequestHeader, session) == 8 &&
              offsetof(GatherRequestHeader, read) == 40 &&
              offsetof(GatherRequestHeader, wanted_within_us) == kGatherRequestBytes1);

// Body when status is kOk: rows [row_count][row_stride], then, with kReplyHasStatuses, a StatusCode
// of one byte for each row; bytes of a row that is not kOk are zero. Else no body.
struct GatherReplyHeader {
  uint32_t magic = kGatherReplyMagic;
  uint32_t row_count = 0;
  uint64_t session = 0;
  uint64_t read = 0;
  uint64_t newest_epoch = 0;
  uint32_t status = 0;  // StatusCode of the whole read
  uint32_t flags = 0;
  // From here on format 2 only.
  uint32_t retry_after_us = 0;  // with kResourceExhausted: no sooner. 0 = as the reader likes
  uint32_t reserved = 0;        // 0
};
inline constexpr size_t kGatherReplyBytes1 = 40;
static_assert(sizeof(GatherReplyHeader) == 48);
static_assert(offsetof(GatherReplyHeader, newest_epoch) == 24 &&
              offsetof(GatherReplyHeader, flags) == 36 &&
              offsetof(GatherReplyHeader, retry_after_us) == kGatherReplyBytes1);
inline constexpr uint32_t kReplyHasStatuses = 1;

// No body.
struct LeaseRequest {
  uint32_t magic = kLeaseRequestMagic;
  uint32_t reserved = 0;  // 0
  uint64_t session = 0;
  uint64_t version = 0;
  uint64_t incarnation = 0;
  uint64_t acknowledged_epoch = 0;  // no read under an older map is in flight
  uint64_t sequence = 0;            // from 1; comes back in the grant
  // No read by an older slot directory is in flight; kNoDirectory = this reader takes no rows by
  // itself.
  uint64_t directory_generation = 0;
};
static_assert(sizeof(LeaseRequest) == 56);
static_assert(offsetof(LeaseRequest, session) == 8 && offsetof(LeaseRequest, sequence) == 40 &&
              offsetof(LeaseRequest, directory_generation) == 48);

// No body. With sequence 0 it answers no request: the node ends the session with `status`.
struct LeaseGrant {
  uint32_t magic = kLeaseGrantMagic;
  uint32_t status = 0;  // StatusCode; not kOk = the session ends with it
  uint64_t session = 0;
  uint64_t sequence = 0;
  uint64_t newest_epoch = 0;
  uint64_t generation = 0;  // of the slot directory
  uint32_t lease_ms = 0;    // from when the reader sent the request; 0 = no lease
  uint32_t reserved = 0;    // 0
};
static_assert(sizeof(LeaseGrant) == 48);
static_assert(offsetof(LeaseGrant, generation) == 32 && offsetof(LeaseGrant, lease_ms) == 40);

// What a decoder found. `header` is filled (and may be answered) when `has_header`, which kOk
// implies; `fault` says in a few words what is wrong.
template <typename Header>
struct Decoded {
  Header header;
  bool has_header = false;
  StatusCode status = StatusCode::kOk;
  const char* fault = "";
};

// What of a header is sent under a session's protocol; sets its magic. The header must stay.
[[nodiscard]] std::span<const std::byte> EncodeGatherRequest(GatherRequestHeader* header,
                                                             uint32_t protocol);
[[nodiscard]] std::span<const std::byte> EncodeGatherReply(GatherReplyHeader* header,
                                                           uint32_t protocol);

// Either format, as format 2. ERRORS: kMalformed (length, magic, body length), kInvalidArgument
// (row_count 0 or more than kReadRowsMax). Thread-safe.
[[nodiscard]] Decoded<GatherRequestHeader> DecodeGatherRequest(std::span<const std::byte> header,
                                                               uint64_t body_bytes);
// `row_stride` of the session. Either format. ERRORS: kMalformed.
[[nodiscard]] Decoded<GatherReplyHeader> DecodeGatherReply(std::span<const std::byte> header,
                                                           uint64_t body_bytes,
                                                           uint32_t row_stride);
[[nodiscard]] Decoded<LeaseRequest> DecodeLeaseRequest(std::span<const std::byte> header,
                                                       uint64_t body_bytes);
[[nodiscard]] Decoded<LeaseGrant> DecodeLeaseGrant(std::span<const std::byte> header,
                                                   uint64_t body_bytes);

// The session that a reply or grant names, 0 when it is too short to name one: the reader needs the
// session's row_stride to check the rest.
[[nodiscard]] uint64_t SessionOfReply(std::span<const std::byte> header);

// Bytes of a reply's body.
[[nodiscard]] constexpr uint64_t ReplyBodyBytes(uint32_t row_count, uint32_t row_stride,
                                                bool has_statuses) {
  return uint64_t{row_count} * row_stride + (has_statuses ? row_count : 0);
}

// True when every byte is a StatusCode. A reply's statuses come from outside.
[[nodiscard]] bool AreStatusCodes(std::span<const std::byte> statuses);

}  // namespace engram
