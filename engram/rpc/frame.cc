#include "engram/rpc/frame.h"

#include <algorithm>
#include <cstring>

#include "engram/base/check.h"

namespace engram {
namespace {

constexpr size_t kPrepareBytesMin = 16384;

uint32_t LoadLittleEndian32(const char* bytes) {
  const auto* b = reinterpret_cast<const unsigned char*>(bytes);
  return uint32_t{b[0]} | uint32_t{b[1]} << 8 | uint32_t{b[2]} << 16 | uint32_t{b[3]} << 24;
}

// Bytes of the UTF-8 character that `text` begins with; 0 when it begins with none.
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Longer forms than needed, surrogates, above U+10FFFF.
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
      (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  return size;
}

}  // namespace

std::string ErrorMessageText(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const size_t size = CharacterBytes(text);
    if (valid.size() + std::max<size_t>(size, 1) > kErrorMessageBytesMax) break;
    if (size == 0) {
      valid.push_back('?');
    } else {
      valid.append(text.substr(0, size));
    }
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  return valid;
}

proto::ErrorCode StatusCodeToProto(StatusCode code) {
  return static_cast<proto::ErrorCode>(static_cast<int>(code));
}

StatusCode StatusCodeFromProto(int code) {
  if (code < 0 || code >= kStatusCodeCount) return StatusCode::kInternal;
  return static_cast<StatusCode>(code);
}

Status AppendFrame(const proto::Frame& frame, uint32_t frame_bytes_max, std::string* out) {
  const size_t size = frame.ByteSizeLong();
  if (size > frame_bytes_max) {
    return Status(StatusCode::kResourceExhausted, "a control message of " + std::to_string(size) +
                                                      " bytes is longer than the bound of " +
                                                      std::to_string(frame_bytes_max) +
                                                      " (frame_bytes_max): send less at once");
  }
  const auto length = static_cast<uint32_t>(size);
  for (int shift = 0; shift < 32; shift += 8) {
    out->push_back(static_cast<char>(length >> shift & 0xff));
  }
  ENGRAM_CHECK(frame.AppendToString(out));
  return Status();
}

Status CheckRequest(const proto::Frame& frame) {
  if (frame.call_id() == 0) return Status(StatusCode::kMalformed, "a request without a call id");
  if (frame.method().empty() || frame.method().size() > kMethodNameBytesMax) {
    return Status(StatusCode::kMalformed,
                  "a request whose method name has " + std::to_string(frame.method().size()) +
                      " bytes; 1 to " + std::to_string(kMethodNameBytesMax) + " are allowed");
  }
  if (frame.code() != proto::OK || !frame.message().empty() || !frame.leader().empty()) {
    return Status(StatusCode::kMalformed, "a request with the fields of a reply");
  }
  return Status();
}

Status CheckReply(const proto::Frame& frame) {
  if (frame.call_id() == 0) return Status(StatusCode::kMalformed, "a reply without a call id");
  if (!frame.method().empty()) {
    return Status(StatusCode::kMalformed, "a reply with a method name, as only requests have");
  }
  if (frame.code() != proto::OK && !frame.body().empty()) {
    return Status(StatusCode::kMalformed, "an error reply with a body");
  }
  if (frame.leader().size() > kLeaderBytesMax) {
    return Status(StatusCode::kMalformed,
                  "a reply whose leader's address has " + std::to_string(frame.leader().size()) +
                      " bytes; at most " + std::to_string(kLeaderBytesMax) + " are allowed");
  }
  return Status();
}

std::span<char> FrameDecoder::Prepare() {
  if (begin_ == end_) begin_ = end_ = 0;
  // Room grows with what has arrived, not with what a header claims, and not beyond the frame.
  const size_t have = end_ - begin_;
  size_t room = have;
  if (have >= kFrameHeaderBytes) {
    const size_t whole = size_t{kFrameHeaderBytes} + LoadLittleEndian32(buffer_.data() + begin_);
    room = std::min(room, whole > have ? whole - have : 0);
  }
  room = std::max(room, kPrepareBytesMin);
  if (buffer_.size() - end_ < room) {
    if (begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    if (buffer_.size() - end_ < room) {
      buffer_.reserve(end_ + room);  // resize alone would double it
      buffer_.resize(end_ + room);
    }
  }
  return {buffer_.data() + end_, buffer_.size() - end_};
}

size_t FrameDecoder::coming_bytes() const {
  return std::max(buffer_.size(), kPrepareBytesMin) - kPrepareBytesMin;
}

void FrameDecoder::Commit(size_t byte_count) {
  ENGRAM_CHECK(byte_count <= buffer_.size() - end_);
  end_ += byte_count;
}

Result<std::optional<proto::Frame>> FrameDecoder::Next() {
  const size_t have = end_ - begin_;
  if (have < kFrameHeaderBytes) return std::optional<proto::Frame>();
  const uint32_t length = LoadLittleEndian32(buffer_.data() + begin_);
  if (length == 0 || length > frame_bytes_max_) {
    return Error(StatusCode::kMalformed, "a frame of " + std::to_string(length) + " bytes; 1 to " +
                                             std::to_string(frame_bytes_max_) +
                                             " are allowed: this is not an Engram control message");
  }
  if (have - kFrameHeaderBytes < length) return std::optional<proto::Frame>();
  proto::Frame frame;
  if (!frame.ParseFromArray(buffer_.data() + begin_ + kFrameHeaderBytes,
                            static_cast<int>(length))) {
    return Error(StatusCode::kMalformed,
                 "a frame of " + std::to_string(length) + " bytes that is not a proto.Frame");
  }
  begin_ += kFrameHeaderBytes + length;
  if (begin_ == end_) {
    begin_ = end_ = 0;
    // One long message must not hold its memory for the rest of the connection.
    if (buffer_.size() > kPrepareBytesMin) {
      buffer_.clear();
      buffer_.shrink_to_fit();
    }
  }
  return std::optional<proto::Frame>(std::move(frame));
}

}  // namespace engram
