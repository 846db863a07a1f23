// A model's tables in GPU memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engram/base/status.h"
#include "engram/checkpoint/checkpoint_rows.h"
#include "model_worker/cuda/device_memory.h"

namespace engram::gpu {

// Rows in row id order, as they are staged. Immutable after Load.
class DeviceTables {
 public:
  // Reads every table in pieces, through one pinned buffer: host memory holds no table. On the
  // current device; waits for the last copy.
  // ERRORS: kResourceExhausted with the bytes needed and free, those of CheckpointRows::Read.
  [[nodiscard]] static Result<std::unique_ptr<DeviceTables>> Load(
      CheckpointRows* checkpoint, const CheckpointRows::OnProgress& on_progress);

  // [rows of the table][row_bytes], on the device.
  [[nodiscard]] const std::byte* rows(int32_t layer_index) const {
    return tables_[static_cast<size_t>(layer_index)].data();
  }

 private:
  DeviceTables() = default;
  std::vector<DeviceArray<std::byte>> tables_;  // [layers]
};

}  // namespace engram::gpu
