// Memory that one-sided reads may put rows into though this host's processors do not look at them
// there: a GPU's.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "engram/base/status.h"

namespace engram {

// Thread-safe. Outlives the transport that was given it.
class LandingMemory {
 public:
  struct Free {
    LandingMemory* from = nullptr;
    void operator()(std::byte* memory) const { from->Release(memory); }
  };
  using Block = std::unique_ptr<std::byte, Free>;

  virtual ~LandingMemory() = default;
  // Whether it is a CUDA GPU's, which UCX and the network card must know how to reach. Else the
  // host's, where a test stands in for a GPU.
  [[nodiscard]] virtual bool of_gpu() const = 0;
  // ERRORS: kResourceExhausted with the bytes wanted.
  [[nodiscard]] virtual Result<Block> Allocate(size_t bytes) = 0;
  // Copies what is there now, and waits until it is copied.
  [[nodiscard]] virtual Status CopyToHost(const std::byte* from, std::span<std::byte> to) = 0;

 protected:
  virtual void Release(std::byte* memory) = 0;
};

}  // namespace engram
