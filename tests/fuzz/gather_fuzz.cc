// The decoders of everything that a peer sends on a data session.
#include <cstring>
#include <vector>

#include "engram/base/check.h"
#include "engram/transport/gather_message.h"

using namespace engram;

// The first byte chooses the decoder, the next eight are the body's length, the rest is the header.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 9) return 0;
  uint64_t body_bytes = 0;
  std::memcpy(&body_bytes, data + 1, sizeof(body_bytes));
  // A copy of exactly that size: reading past it is found.
  const auto* const first = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> header(first + 9, first + size);
  switch (data[0] % 4) {
    case 0: {
      const auto decoded = DecodeGatherRequest(header, body_bytes);
      if (decoded.status != StatusCode::kOk) break;
      ENGRAM_CHECK(decoded.has_header);
      ENGRAM_CHECK(decoded.header.row_count >= 1 && decoded.header.row_count <= kReadRowsMax);
      ENGRAM_CHECK(body_bytes == uint64_t{decoded.header.row_count} * 8);
      break;
    }
    case 1: {
      const uint32_t row_stride = 1 + data[0] * 13u;
      const auto decoded = DecodeGatherReply(header, body_bytes, row_stride);
      if (decoded.status != StatusCode::kOk) break;
      ENGRAM_CHECK(decoded.header.row_count <= kReadRowsMax);
      ENGRAM_CHECK(decoded.header.status < static_cast<uint32_t>(kStatusCodeCount));
      if (decoded.header.status == 0) {
        // What the reader will deliver lies inside the body.
        const bool has_statuses = (decoded.header.flags & kReplyHasStatuses) != 0;
        ENGRAM_CHECK(ReplyBodyBytes(decoded.header.row_count, row_stride, has_statuses) ==
                     body_bytes);
      }
      ENGRAM_CHECK(SessionOfReply(header) == decoded.header.session);
      break;
    }
    case 2: {
      const auto decoded = DecodeLeaseRequest(header, body_bytes);
      ENGRAM_CHECK(decoded.status != StatusCode::kOk || decoded.header.sequence != 0);
      break;
    }
    default: {
      const auto decoded = DecodeLeaseGrant(header, body_bytes);
      ENGRAM_CHECK(decoded.status != StatusCode::kOk ||
                   decoded.header.status < static_cast<uint32_t>(kStatusCodeCount));
      break;
    }
  }
  (void)SessionOfReply(header);
  (void)AreStatusCodes(header);
  return 0;
}
