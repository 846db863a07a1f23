#include "tests/unit/engram/hash/allocation_count.h"

#include <cstdlib>
#include <new>

namespace {
thread_local int64_t allocation_count = 0;
}  // namespace

namespace engram {
int64_t AllocationCount() { return allocation_count; }
}  // namespace engram

void* operator new(size_t size) {
  ++allocation_count;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
