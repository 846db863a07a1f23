// Who else must know the memory that rows are staged in: a GPU backend pins it, so that the GPU
// reads it without a copy by the CPU.
#pragma once

#include <cstddef>
#include <span>

namespace engram {

// Thread-safe. Must outlive every staging ring that was given it.
class StagingMemoryObserver {
 public:
  virtual ~StagingMemoryObserver() = default;
  // Once for each ring, before rows are staged in it.
  virtual void Mapped(std::span<std::byte> memory) = 0;
  // Right before the memory goes. Nobody reads it any more.
  virtual void Unmapping(std::span<std::byte> memory) = 0;
};

}  // namespace engram
