// Large arrays straight from the kernel: zero, aligned to a page, committed when touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "engram/base/status.h"

namespace engram {

// Owns `count` floats. Move-only.
class PageBuffer {
 public:
  PageBuffer() = default;
  // ERRORS: kResourceExhausted naming `what` and the bytes wanted.
  // `huge_pages`: asks for transparent huge pages; for arrays that will be filled whole.
  [[nodiscard]] static Result<PageBuffer> Create(uint64_t count, bool huge_pages, const char* what);
  PageBuffer(PageBuffer&& other) noexcept { *this = std::move(other); }
  PageBuffer& operator=(PageBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PageBuffer();

  [[nodiscard]] float* data() { return data_; }
  [[nodiscard]] const float* data() const { return data_; }

 private:
  float* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace engram
