#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "engram/checkpoint/safetensors.h"
#include "engram/checkpoint/strict_json.h"

namespace engram {
namespace {

// Smaller appends are gathered to this many bytes.
constexpr size_t kBufferBytes = 4u << 20;

Status WriteAll(int fd, std::span<const std::byte> bytes, const std::string& file) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      const bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
      return Status(StatusCode::kIo,
                    "cannot write " + file + ": " + std::strerror(errno) +
                        (full ? ": free some space, or choose another folder" : ""));
    }
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
  return Status();
}

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

Result<SafetensorsWriter> SafetensorsWriter::Create(const std::filesystem::path& file,
                                                    const std::vector<TensorToWrite>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t data_bytes = 0;
  for (const TensorToWrite& tensor : tensors) {
    uint64_t bytes = DtypeBytes(tensor.dtype);
    bool bad = bytes == 0 || header.contains(tensor.name);
    for (const int64_t size : tensor.shape) {
      bad |= size < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes);
    }
    const uint64_t begin = data_bytes;
    bad |= __builtin_add_overflow(data_bytes, bytes, &data_bytes);
    if (bad || data_bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Error(StatusCode::kInvalidArgument,
                   "tensor " + Quoted(tensor.name) +
                       " cannot be written: its dtype or shape is not valid, or it stands twice");
    }
    header[tensor.name] = {{"dtype", std::string(DtypeName(tensor.dtype))},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data_bytes}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    return Error(StatusCode::kInvalidArgument,
                 "a tensor name for " + file.string() + " is not valid UTF-8");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start at a multiple of 8
  std::string start(8, '\0');
  for (size_t i = 0; i < 8; ++i) start[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  start += text;

  const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    return Error(StatusCode::kIo, "cannot create " + file.string() + ": " + std::strerror(errno));
  }
  SafetensorsWriter writer(file, fd, data_bytes);
  writer.buffer_.reserve(kBufferBytes);
  ENGRAM_TRY(WriteAll(fd, BytesOf(start), file.string()));
  return writer;
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : file_(std::move(other.file_)),
      fd_(std::exchange(other.fd_, -1)),
      bytes_wanted_(other.bytes_wanted_),
      bytes_written_(other.bytes_written_),
      buffer_(std::move(other.buffer_)) {}

SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&& other) noexcept {
  std::swap(file_, other.file_);
  std::swap(fd_, other.fd_);
  std::swap(bytes_wanted_, other.bytes_wanted_);
  std::swap(bytes_written_, other.bytes_written_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
}

Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  if (bytes.size() > bytes_wanted_ - bytes_written_) {
    return Status(StatusCode::kInvalidArgument,
                  file_.string() + ": more than the " + std::to_string(bytes_wanted_) +
                      " bytes that its header announces were appended");
  }
  bytes_written_ += bytes.size();
  if (buffer_.size() + bytes.size() > kBufferBytes) {
    ENGRAM_RETURN_IF_ERROR(WriteAll(fd_, buffer_, file_.string()));
    buffer_.clear();
    if (bytes.size() >= kBufferBytes) return WriteAll(fd_, bytes, file_.string());
  }
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  return Status();
}

Status SafetensorsWriter::Finish() {
  if (bytes_written_ != bytes_wanted_) {
    return Status(StatusCode::kInvalidArgument, file_.string() + ": " +
                                                    std::to_string(bytes_written_) +
                                                    " bytes were appended, its header announces " +
                                                    std::to_string(bytes_wanted_));
  }
  ENGRAM_RETURN_IF_ERROR(WriteAll(fd_, buffer_, file_.string()));
  buffer_.clear();
  // Some file systems report a full disk only here.
  if (::close(std::exchange(fd_, -1)) != 0) {
    return Status(StatusCode::kIo, "cannot write " + file_.string() + ": " + std::strerror(errno));
  }
  return Status();
}

}  // namespace engram
