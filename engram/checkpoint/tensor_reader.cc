#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "engram/checkpoint/safetensors.h"
#include "engram/checkpoint/strict_json.h"

namespace engram {

Result<TensorReader> TensorReader::Open(const TensorInfo& info) {
  const int fd = ::open(info.file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return Error(StatusCode::kIo,
                 "cannot open " + info.file.string() + ": " + std::strerror(errno));
  }
  // Advice only: loading reads slots one after the other.
  (void)::posix_fadvise(fd, static_cast<off_t>(info.file_offset),
                        static_cast<off_t>(info.byte_count), POSIX_FADV_SEQUENTIAL);
  return TensorReader(info, fd);
}

TensorReader::TensorReader(TensorReader&& other) noexcept
    : info_(std::move(other.info_)), fd_(std::exchange(other.fd_, -1)) {}

TensorReader& TensorReader::operator=(TensorReader&& other) noexcept {
  std::swap(info_, other.info_);
  std::swap(fd_, other.fd_);
  return *this;
}

TensorReader::~TensorReader() {
  if (fd_ >= 0) ::close(fd_);
}

Status TensorReader::Read(uint64_t offset, std::span<std::byte> target) {
  if (offset > info_.byte_count || target.size() > info_.byte_count - offset) {
    return Status(StatusCode::kInvalidArgument, "tensor " + Quoted(info_.name) + ": bytes " +
                                                    std::to_string(offset) + " to " +
                                                    std::to_string(offset + target.size()) +
                                                    " of " + std::to_string(info_.byte_count));
  }
  uint64_t position = info_.file_offset + offset;
  while (!target.empty()) {
    const ssize_t got = ::pread(fd_, target.data(), target.size(), static_cast<off_t>(position));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return Status(StatusCode::kIo, "cannot read " + info_.file.string() + " at byte " +
                                         std::to_string(position) + ": " + std::strerror(errno));
    }
    if (got == 0) {
      return Status(StatusCode::kMalformed, info_.file.string() + " ends at byte " +
                                                std::to_string(position) + ", inside tensor " +
                                                Quoted(info_.name) +
                                                ": it was truncated since it was opened");
    }
    position += static_cast<uint64_t>(got);
    target = target.subspan(static_cast<size_t>(got));
  }
  return Status();
}

}  // namespace engram
