#include "model_worker/cpu/blocked_matrix.h"

#include <atomic>
#include <bit>

#include "engram/base/check.h"

namespace engram {

Result<BlockedMatrix> BlockedMatrix::Pack(MatmulShapes* shapes, std::span<const float> values,
                                          int64_t columns_out, int64_t columns_in,
                                          uint32_t blocks) {
  ENGRAM_CHECK(std::has_single_bit(blocks) && columns_in % blocks == 0);
  BlockedMatrix matrix;
  matrix.block_columns_ = columns_in / blocks;
  matrix.panel_columns_ = PackedMatrix::PanelColumns(columns_out);
  std::vector<float> block(static_cast<size_t>(columns_out * matrix.block_columns_));
  for (uint32_t b = 0; b < blocks; ++b) {
    for (int64_t row = 0; row < columns_out; ++row) {
      std::copy_n(values.data() + row * columns_in + b * matrix.block_columns_,
                  matrix.block_columns_, block.data() + row * matrix.block_columns_);
    }
    ENGRAM_ASSIGN_OR_RETURN(
        PackedMatrix packed,
        PackedMatrix::PackBlock(shapes, block, columns_out, matrix.block_columns_, columns_in));
    matrix.blocks_.push_back(std::move(packed));
  }
  return matrix;
}

Status BlockedMatrix::Prepare(uint32_t rows) {
  // Blocks have one shape.
  return blocks_.front().Prepare(rows);
}

bool BlockedMatrix::RunTask(uint32_t thread, size_t task, uint32_t rows, const float* x,
                            Output output, float* y) {
  const PackedMatrix::Task at = blocks_.front().TaskAt(task, rows);
  const int64_t width = at.column_end - at.column_begin;
  const auto tile_floats = static_cast<size_t>(kMatmulRowsMax * panel_columns_);
  std::vector<float>& tiles = tiles_[thread];
  const auto levels = static_cast<size_t>(std::bit_width(blocks_.size()));
  if (tiles.size() < levels * tile_floats) tiles.resize(levels * tile_floats);
  // The sums that wait for their other half lie one after the other, the larger ones first.
  size_t waiting = 0;
  for (size_t b = 0; b < blocks_.size(); ++b) {
    float* const tile = tiles.data() + waiting * tile_floats;
    const float* const columns = x + static_cast<int64_t>(b) * block_columns_;
    if (!blocks_[b].RunTile(thread, task, rows, columns, tile)) return false;
    ++waiting;
    for (size_t done = b + 1; done % 2 == 0; done /= 2) {
      --waiting;
      float* const sum = tiles.data() + (waiting - 1) * tile_floats;
      const float* const other = sum + tile_floats;
      for (int64_t row = 0; row < at.row_end - at.row_begin; ++row) {
        for (int64_t c = 0; c < width; ++c) {
          sum[row * panel_columns_ + c] += other[row * panel_columns_ + c];
        }
      }
    }
  }
  ENGRAM_CHECK(waiting == 1);
  const int64_t columns_out = blocks_.front().columns_out();
  for (uint32_t row = at.row_begin; row < at.row_end; ++row) {
    const float* const sum = tiles.data() + int64_t{row - at.row_begin} * panel_columns_;
    float* const out = y + row * columns_out + at.column_begin;
    if (output == Output::kAdd) {
      for (int64_t c = 0; c < width; ++c) out[c] += sum[c];
    } else {
      std::copy_n(sum, width, out);
    }
  }
  return true;
}

Status BlockedMatrix::Run(ComputePool* pool, uint32_t rows, const float* x, Output output,
                          float* y) {
  ENGRAM_RETURN_IF_ERROR(Prepare(rows));
  if (tiles_.size() < pool->threads()) tiles_.resize(pool->threads());
  std::atomic<bool> failed{false};
  pool->Run(blocks_.front().TaskCount(rows), [&](size_t task, uint32_t thread) {
    if (!RunTask(thread, task, rows, x, output, y)) failed.store(true, std::memory_order_relaxed);
  });
  if (!failed.load(std::memory_order_relaxed)) return {};
  return {StatusCode::kInternal, "oneDNN failed in a matrix product"};
}

}  // namespace engram
