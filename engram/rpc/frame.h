// Frames of a control connection: a 4-byte little-endian length, then one proto::Frame
// (docs/formats/control_frame.md). Pure: bytes in, frames out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "proto/rpc.pb.h"

namespace engram {

inline constexpr uint32_t kFrameHeaderBytes = 4;
inline constexpr size_t kMethodNameBytesMax = 128;
inline constexpr size_t kLeaderBytesMax = 255;         // "host:port"
inline constexpr size_t kErrorMessageBytesMax = 4096;  // a longer one is cut by the sender

// `text` as a frame's message can carry it: valid UTF-8 (other bytes become '?': they may come from
// a file's name or contents, and the peer would refuse the frame), at most kErrorMessageBytesMax.
[[nodiscard]] std::string ErrorMessageText(std::string_view text);

[[nodiscard]] proto::ErrorCode StatusCodeToProto(StatusCode code);
// A number that this program does not know becomes kInternal.
[[nodiscard]] StatusCode StatusCodeFromProto(int code);

// Appends length and frame to `out`.
// ERRORS: kResourceExhausted when the frame is longer than `frame_bytes_max`; `out` is unchanged.
[[nodiscard]] Status AppendFrame(const proto::Frame& frame, uint32_t frame_bytes_max,
                                 std::string* out);

// What a request, or a reply, must look like. ERRORS: kMalformed naming the field.
[[nodiscard]] Status CheckRequest(const proto::Frame& frame);
[[nodiscard]] Status CheckReply(const proto::Frame& frame);

// Cuts a stream of bytes into frames. Holds at most twice the bytes received, however long a frame
// claims to be, and no more than the longest frame and 16 KiB. Thread-compatible.
class FrameDecoder {
 public:
  explicit FrameDecoder(uint32_t frame_bytes_max) : frame_bytes_max_(frame_bytes_max) {}

  // Room for the next bytes: write n of them at its start, then Commit(n). Never empty.
  [[nodiscard]] std::span<char> Prepare();
  // Precondition: byte_count <= the size of the last Prepare().
  void Commit(size_t byte_count);

  // The next whole frame; none when more bytes are needed.
  // ERRORS: kMalformed (length 0 or above the bound, not a Frame): the stream cannot go on.
  [[nodiscard]] Result<std::optional<proto::Frame>> Next();

  // Memory held for a frame that is coming, beyond the 16 KiB that every stream has.
  [[nodiscard]] size_t coming_bytes() const;

  // True when a part of a frame has come and its rest has not. Meaningful after Next() gave none.
  [[nodiscard]] bool mid_frame() const { return end_ > begin_; }

 private:
  uint32_t frame_bytes_max_;
  std::vector<char> buffer_;
  size_t begin_ = 0;  // bytes [begin_, end_) of buffer_ are not yet decoded
  size_t end_ = 0;
};

}  // namespace engram
