// The GPU's side of rows that network cards put into its memory (client/row_landing.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "client/row_landing.h"
#include "engram/base/status.h"

namespace engram::gpu {

class DeviceLanding final : public RowLanding {
 public:
  explicit DeviceLanding(int32_t device) : device_(device) {}

  [[nodiscard]] bool of_gpu() const override { return true; }
  [[nodiscard]] Result<Block> Allocate(size_t bytes) override;
  [[nodiscard]] Status CopyToHost(const std::byte* from, std::span<std::byte> to) override;
  // A part's stream goes before others: a layer may be waiting for what it checks.
  [[nodiscard]] Result<std::unique_ptr<LandedRows>> MakeRows(const Shape& shape) override;

 protected:
  void Release(std::byte* memory) override;

 private:
  const int32_t device_;
};

}  // namespace engram::gpu
