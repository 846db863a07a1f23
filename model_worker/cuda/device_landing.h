// The GPU's side of rows that network cards put into its memory (client/row_landing.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "client/row_landing.h"
#include "engram/base/status.h"

namespace engram::gpu {

class DeviceLanding final : public RowLanding {
 public:
  explicit DeviceLanding(int32_t device) : device_(device) {}
  ~DeviceLanding() override;
  DeviceLanding(const DeviceLanding&) = delete;
  DeviceLanding& operator=(const DeviceLanding&) = delete;

  [[nodiscard]] bool of_gpu() const override { return true; }
  // Released blocks are kept for the next one of their size, and go with this: cudaFree waits for
  // all that the GPU does, and UCX remembers which addresses a card may write.
  [[nodiscard]] Result<Block> Allocate(size_t bytes) override;
  [[nodiscard]] Status CopyToHost(const std::byte* from, std::span<std::byte> to) override;
  // A part's stream goes before others: a layer may be waiting for what it checks.
  [[nodiscard]] Result<std::unique_ptr<LandedRows>> MakeRows(const Shape& shape) override;

 protected:
  void Release(std::byte* memory) override;

 private:
  const int32_t device_;
  std::mutex mutex_;
  std::map<std::byte*, size_t> blocks_;  // guarded by mutex_: all there are, and their bytes
  std::multimap<size_t, std::byte*> free_blocks_;  // the same: those that nobody has
};

}  // namespace engram::gpu
