// A matrix product whose sums are made of blocks, so that ranks can share it and have the same
// bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engram/base/status.h"
#include "model_worker/cpu/compute_pool.h"
#include "model_worker/cpu/matmul.h"

namespace engram {

// y = x W^T as the sum of `blocks` products, each of equally many columns of x and W, added in
// pairs, those sums in pairs, and so on. A rank that has 1/T of the blocks, all side by side, gets
// what T = 1 has inside its tree; Collective::AllReduce adds the rest of the tree. How the columns
// are cut costs little: a block's part of the sum is added while it is in the cache.
class BlockedMatrix {
 public:
  BlockedMatrix() = default;
  // Packs `values` [columns_out][columns_in], row-major; they are not kept. Preconditions: `blocks`
  // is a power of two that divides columns_in. ERRORS: kInternal (oneDNN), kResourceExhausted.
  [[nodiscard]] static Result<BlockedMatrix> Pack(MatmulShapes* shapes,
                                                  std::span<const float> values,
                                                  int64_t columns_out, int64_t columns_in,
                                                  uint32_t blocks);

  // Makes what Run for `rows` rows needs; Run does it too, if need be.
  [[nodiscard]] Status Prepare(uint32_t rows);

  enum class Output : uint8_t {
    kAdd,  // y += the sum
    kSet,  // y = the sum
  };
  // All tasks on the pool.
  //   x  [MatmulRows(rows)][columns_in]; y [rows][columns_out]
  // ERRORS: kInternal (oneDNN).
  [[nodiscard]] Status Run(ComputePool* pool, uint32_t rows, const float* x, Output output,
                           float* y);

 private:
  [[nodiscard]] bool RunTask(uint32_t thread, size_t task, uint32_t rows, const float* x,
                             Output output, float* y);

  std::vector<PackedMatrix> blocks_;
  int64_t block_columns_ = 0;
  int64_t panel_columns_ = 0;
  std::vector<std::vector<float>> tiles_;  // [threads][levels of the tree][rows of a call][panel]
};

}  // namespace engram
