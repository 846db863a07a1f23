// A control connection's bytes, arriving in pieces of any size.
#include <algorithm>
#include <cstring>
#include <string>

#include "engram/base/check.h"
#include "engram/rpc/frame.h"

using namespace engram;

namespace {

constexpr uint32_t kFrameBytesMax = 4096;
constexpr size_t kRoomBytes = 64u << 10;  // what a decoder may offer before anything has come

void CheckFrame(const proto::Frame& frame) {
  const bool request = CheckRequest(frame).ok();
  const bool reply = CheckReply(frame).ok();
  ENGRAM_CHECK(!(request && reply));  // a method, or none
  if (request) ENGRAM_CHECK(!frame.method().empty() && frame.code() == proto::OK);
  const StatusCode code = StatusCodeFromProto(frame.code());
  ENGRAM_CHECK(static_cast<int>(code) < kStatusCodeCount);
  // Any bytes make a message that the peer can read.
  proto::Frame error;
  error.set_call_id(1);
  error.set_code(StatusCodeToProto(code));
  error.set_message(ErrorMessageText(frame.body()));
  ENGRAM_CHECK(error.message().size() <= kErrorMessageBytesMax);
  proto::Frame received;
  ENGRAM_CHECK(received.ParseFromString(error.SerializeAsString()));
  // What was understood can be sent on, and is understood the same way.
  std::string again;
  if (!AppendFrame(frame, kFrameBytesMax, &again).ok() || again.size() == kFrameHeaderBytes) return;
  FrameDecoder decoder(kFrameBytesMax);
  for (size_t at = 0; at < again.size();) {
    const auto room = decoder.Prepare();
    const size_t size = std::min(room.size(), again.size() - at);
    std::memcpy(room.data(), again.data() + at, size);
    decoder.Commit(size);
    at += size;
  }
  const auto next = decoder.Next();
  ENGRAM_CHECK(next.has_value() && next->has_value());
  ENGRAM_CHECK((*next)->SerializeAsString() == frame.SerializeAsString());
  ENGRAM_CHECK(!decoder.mid_frame());
}

}  // namespace

// The first byte seeds the sizes of the pieces; the rest is the stream.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  uint32_t dice = data[0];
  FrameDecoder decoder(kFrameBytesMax);
  size_t received = 0;
  size_t decoded = 0;
  for (size_t at = 1; at < size;) {
    const auto room = decoder.Prepare();
    ENGRAM_CHECK(!room.empty());
    // However long a frame claims to be, memory follows what has come.
    ENGRAM_CHECK(room.size() <= 2 * std::max(received, kRoomBytes));
    dice = dice * 1664525u + 1013904223u;
    const size_t piece = std::min({room.size(), size - at, size_t{1} + (dice >> 24)});
    std::memcpy(room.data(), data + at, piece);
    decoder.Commit(piece);
    at += piece;
    received += piece;
    while (true) {
      const auto next = decoder.Next();
      if (!next.has_value()) {
        ENGRAM_CHECK(next.error().code() == StatusCode::kMalformed);
        return 0;
      }
      if (!next->has_value()) break;
      ++decoded;
      ENGRAM_CHECK(decoded * (kFrameHeaderBytes + 1) <= received);
      CheckFrame(**next);
    }
  }
  return 0;
}
