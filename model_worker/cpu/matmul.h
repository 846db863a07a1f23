// Matrix products on oneDNN, cut into tasks for the compute pool.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "engram/base/status.h"
#include "model_worker/cpu/page_buffer.h"

namespace engram {

// Rows that one oneDNN call takes at most.
inline constexpr uint32_t kMatmulRowsMax = 96;
// Buffers for `rows` rows must have room for MatmulRows(rows) rows: see MatmulShape.
[[nodiscard]] constexpr uint32_t MatmulRows(uint32_t rows) { return (rows + 11) / 12 * 12; }

// All oneDNN primitives of one shape: y[rows][columns_out] (+)= x[rows][columns_in] W^T, for each
// number of rows.
//
// A row's result must not depend on how many rows share the call. oneDNN's brgemm (AVX-512) keeps
// that: each output is one sum over columns_in in a fixed order (tests/unit/.../matmul_test.cc).
// Its gemm for other CPUs has other kernels for the last rows of a call that do not fill a tile, so
// there the calls take multiples of 12 rows only, the last ones being padding.
class MatmulShape {
 public:
  struct Key {
    int64_t columns_in = 0;
    int64_t columns_out = 0;
    int64_t x_stride = 0;
    int64_t y_stride = 0;
    bool accumulate = false;  // y += instead of y =
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  MatmulShape(const Key& key, const dnnl::engine& engine, uint32_t threads);

  [[nodiscard]] const Key& key() const { return key_; }
  [[nodiscard]] const dnnl::memory::desc& packed_desc() const { return packed_desc_; }

  // Makes the primitives that calls for `rows` rows need. By the driving thread, before Run.
  void Prepare(uint32_t rows);
  // Rows that one call covers when `rows` are left; its primitive was prepared.
  [[nodiscard]] uint32_t CallRows(uint32_t rows) const;
  // One call. Different threads may run at the same time, each with its own number.
  [[nodiscard]] bool Run(uint32_t thread, const dnnl::memory& weights, const float* x, float* y,
                         uint32_t rows);

 private:
  // What one thread needs to run the primitive for one number of rows.
  struct ThreadArgs {
    dnnl::memory x, y, scratch;
  };
  struct Prepared {
    dnnl::matmul primitive;
    std::vector<ThreadArgs> threads;
  };
  [[nodiscard]] dnnl::matmul::primitive_desc Describe(uint32_t rows, bool first) const;

  Key key_;
  dnnl::engine engine_;
  std::vector<dnnl::stream> streams_;  // [threads]
  dnnl::memory::desc packed_desc_;
  bool any_rows_ = false;  // brgemm
  std::array<std::unique_ptr<Prepared>, kMatmulRowsMax + 1> by_rows_;
};

// The shapes of one backend. Driven by one thread.
class MatmulShapes {
 public:
  explicit MatmulShapes(uint32_t threads);
  // ERRORS: kInternal, oneDNN's words.
  [[nodiscard]] Result<MatmulShape*> Get(const MatmulShape::Key& key);
  [[nodiscard]] const dnnl::engine& engine() const { return engine_; }

 private:
  uint32_t threads_;
  dnnl::engine engine_;
  std::map<MatmulShape::Key, std::unique_ptr<MatmulShape>> shapes_;
};

// One weight matrix, packed in panels of outputs. How it is cut depends on its size alone, so that
// results do not depend on the number of threads.
class PackedMatrix {
 public:
  struct Task {
    uint32_t row_begin, row_end;
    int64_t column_begin, column_end;  // of y
  };

  PackedMatrix() = default;
  // Packs `values` [columns_out][columns_in], row-major; they are not kept. y rows are columns_out
  // apart.
  // ERRORS: kInternal (oneDNN), kResourceExhausted.
  [[nodiscard]] static Result<PackedMatrix> Pack(MatmulShapes* shapes,
                                                 std::span<const float> values, int64_t columns_out,
                                                 int64_t columns_in, bool accumulate);

  // One of the matrices that a product is the sum of (cpu/blocked_matrix.h): x rows are `x_stride`
  // apart, and y rows as wide as a panel, for RunTile.
  [[nodiscard]] static Result<PackedMatrix> PackBlock(MatmulShapes* shapes,
                                                      std::span<const float> values,
                                                      int64_t columns_out, int64_t columns_in,
                                                      int64_t x_stride);

  [[nodiscard]] int64_t columns_out() const { return columns_out_; }
  // Makes what tasks for `rows` rows need. ERRORS: kInternal.
  [[nodiscard]] Status Prepare(uint32_t rows);
  // Rows of x and y that tasks for `rows` rows may touch: at most MatmulRows(rows).
  [[nodiscard]] uint32_t RowsTouched(uint32_t rows) const;
  [[nodiscard]] size_t TaskCount(uint32_t rows) const;
  [[nodiscard]] Task TaskAt(size_t task, uint32_t rows) const;
  // Computes one task of y (+)= x W^T. x [MatmulRows(rows)][columns_in], y
  // [MatmulRows(rows)][columns_out], rows past `rows` being scratch. False: oneDNN failed.
  [[nodiscard]] bool RunTask(uint32_t thread, size_t task, uint32_t rows, const float* x,
                             float* y) const;

  // The same for a packed block, its y alone: `tile` [MatmulRows(task's rows)][PanelColumns].
  [[nodiscard]] bool RunTile(uint32_t thread, size_t task, uint32_t rows, const float* x,
                             float* tile) const;

  // Panels of outputs are this wide, but the last: narrow enough to share a small matrix among
  // threads, wide enough that a call costs little in a large one.
  [[nodiscard]] static int64_t PanelColumns(int64_t columns_out) {
    return columns_out <= 8192 ? 128 : 512;
  }

 private:
  struct Panel {
    MatmulShape* shape = nullptr;
    dnnl::memory weights;  // in buffer_
  };
  [[nodiscard]] static Result<PackedMatrix> PackAs(MatmulShapes* shapes,
                                                   std::span<const float> values,
                                                   int64_t columns_out,
                                                   const MatmulShape::Key& form);

  int64_t columns_in_ = 0;
  int64_t columns_out_ = 0;
  int64_t panel_columns_ = 0;
  int64_t x_stride_ = 0;
  PageBuffer buffer_;
  std::vector<Panel> panels_;
};

}  // namespace engram
