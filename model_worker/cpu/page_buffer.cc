#include "model_worker/cpu/page_buffer.h"

#include <string>

#include <sys/mman.h>

namespace engram {

Result<PageBuffer> PageBuffer::Create(uint64_t count, bool huge_pages, const char* what) {
  constexpr uint64_t kFloatsMax = uint64_t{1} << 44;
  constexpr uint64_t kHugePageBytes = 2u << 20;
  PageBuffer buffer;
  if (count == 0) return buffer;
  void* data = MAP_FAILED;
  const uint64_t unit = huge_pages ? kHugePageBytes : 4096;
  if (count < kFloatsMax) {
    buffer.bytes_ = (count * sizeof(float) + unit - 1) / unit * unit;
    data = mmap(nullptr, buffer.bytes_, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  if (data == MAP_FAILED) {
    return Error(StatusCode::kResourceExhausted,
                 std::string(what) + " needs " + std::to_string(count) +
                     " floats, more than this machine gives: lower the limits or the model's size");
  }
  // Only advice: without huge pages it is slower, not wrong.
  if (huge_pages) (void)madvise(data, buffer.bytes_, MADV_HUGEPAGE);
  buffer.data_ = static_cast<float*>(data);
  return buffer;
}

PageBuffer::~PageBuffer() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

}  // namespace engram
