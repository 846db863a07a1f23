// Memory that one-sided reads may put rows into though this host's processors do not look at them
// there: a GPU's.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "engram/base/status.h"

namespace engram {

// Thread-safe. Outlives the transport that was given it, and every block.
class LandingMemory {
 public:
  // Gives a block back.
  struct Free {
    LandingMemory* from = nullptr;
    void operator()(std::byte* memory) const { from->Release(memory); }
  };
  using Block = std::unique_ptr<std::byte, Free>;

  virtual ~LandingMemory() = default;
  // Whether it is a GPU's, which network cards may write and processors cannot. Else the host's,
  // where a test stands in for a GPU.
  [[nodiscard]] virtual bool of_gpu() const = 0;
  // Not initialised. ERRORS: kResourceExhausted with the bytes wanted.
  [[nodiscard]] virtual Result<Block> Allocate(size_t bytes) = 0;
  // Copies to.size() bytes of what is there now, and waits until they are copied. ERRORS:
  // kInternal.
  [[nodiscard]] virtual Status CopyToHost(const std::byte* from, std::span<std::byte> to) = 0;

 protected:
  virtual void Release(std::byte* memory) = 0;
};

}  // namespace engram
