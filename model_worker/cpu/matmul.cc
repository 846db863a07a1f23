#include "model_worker/cpu/matmul.h"

#include <algorithm>
#include <string>
#include <string_view>

#include <omp.h>

#include "engram/base/check.h"

namespace engram {
namespace {

using dnnl::memory;
constexpr memory::data_type kF32 = memory::data_type::f32;

Status FromDnnl(const dnnl::error& error) {
  return Status(StatusCode::kInternal, std::string("oneDNN: ") + error.what());
}

uint64_t RoundUp(uint64_t n, uint64_t unit) { return (n + unit - 1) / unit * unit; }

// oneDNN asks OpenMP how many threads it may use; inside one of our threads the answer is one.
// The setting belongs to the calling thread alone.
void OneThreadInside() {
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
}

}  // namespace

MatmulShape::MatmulShape(const Key& key, const dnnl::engine& engine, uint32_t threads)
    : key_(key), engine_(engine) {
  for (uint32_t t = 0; t < threads; ++t) streams_.emplace_back(engine);
  const dnnl::matmul::primitive_desc desc = Describe(64, true);
  packed_desc_ = desc.weights_desc();
  any_rows_ = std::string_view(desc.impl_info_str()).starts_with("brg");
}

dnnl::matmul::primitive_desc MatmulShape::Describe(uint32_t rows, bool first) const {
  const memory::dim m = rows;
  const memory::desc x({m, key_.columns_in}, kF32, memory::dims{key_.x_stride, 1});
  const memory::desc y({m, key_.columns_out}, kF32, memory::dims{key_.y_stride, 1});
  const memory::desc any({key_.columns_in, key_.columns_out}, kF32, memory::format_tag::any);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key_.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum();
    attributes.set_post_ops(sum);
  }
  return {dnnl::matmul::desc(x, first ? any : packed_desc_, y), attributes, engine_};
}

uint32_t MatmulShape::CallRows(uint32_t rows) const {
  const uint32_t wanted = std::min(rows, kMatmulRowsMax);
  return any_rows_ ? wanted : MatmulRows(wanted);
}

void MatmulShape::Prepare(uint32_t rows) {
  for (uint32_t left = rows; left > 0; left -= std::min(left, kMatmulRowsMax)) {
    const uint32_t call_rows = CallRows(left);
    std::unique_ptr<Prepared>& prepared = by_rows_[call_rows];
    if (prepared != nullptr) continue;
    OneThreadInside();
    const dnnl::matmul::primitive_desc desc = Describe(call_rows, false);
    auto made = std::make_unique<Prepared>();
    made->primitive = dnnl::matmul(desc);
    for (size_t t = 0; t < streams_.size(); ++t) {
      made->threads.push_back({memory(desc.src_desc(), engine_, nullptr),
                               memory(desc.dst_desc(), engine_, nullptr),
                               memory(desc.scratchpad_desc(), engine_)});
    }
    prepared = std::move(made);
  }
}

bool MatmulShape::Run(uint32_t thread, const memory& weights, const float* x, float* y,
                      uint32_t rows) {
  Prepared* prepared = by_rows_[CallRows(rows)].get();
  ENGRAM_CHECK(prepared != nullptr);
  OneThreadInside();
  ThreadArgs& args = prepared->threads[thread];
  // The C interface: the C++ one builds a hash map and throws.
  if (dnnl_memory_set_data_handle(args.x.get(), const_cast<float*>(x)) != dnnl_success ||
      dnnl_memory_set_data_handle(args.y.get(), y) != dnnl_success) {
    return false;
  }
  const dnnl_exec_arg_t list[] = {{DNNL_ARG_SRC, args.x.get()},
                                  {DNNL_ARG_WEIGHTS, weights.get()},
                                  {DNNL_ARG_DST, args.y.get()},
                                  {DNNL_ARG_SCRATCHPAD, args.scratch.get()}};
  return dnnl_primitive_execute(prepared->primitive.get(), streams_[thread].get(), 4, list) ==
         dnnl_success;
}

MatmulShapes::MatmulShapes(uint32_t threads)
    : threads_(threads), engine_(dnnl::engine::kind::cpu, 0) {}

Result<MatmulShape*> MatmulShapes::Get(const MatmulShape::Key& key) {
  std::unique_ptr<MatmulShape>& shape = shapes_[key];
  if (shape == nullptr) {
    OneThreadInside();
    try {
      shape = std::make_unique<MatmulShape>(key, engine_, threads_);
    } catch (const dnnl::error& error) {
      return Error(FromDnnl(error));
    }
  }
  return shape.get();
}

Result<PackedMatrix> PackedMatrix::Pack(MatmulShapes* shapes, std::span<const float> values,
                                        int64_t columns_out, int64_t columns_in, bool accumulate) {
  return PackAs(shapes, values, columns_out, {columns_in, 0, columns_in, columns_out, accumulate});
}

Result<PackedMatrix> PackedMatrix::PackBlock(MatmulShapes* shapes, std::span<const float> values,
                                             int64_t columns_out, int64_t columns_in,
                                             int64_t x_stride) {
  return PackAs(shapes, values, columns_out,
                {columns_in, 0, x_stride, PanelColumns(columns_out), false});
}

Result<PackedMatrix> PackedMatrix::PackAs(MatmulShapes* shapes, std::span<const float> values,
                                          int64_t columns_out, const MatmulShape::Key& form) {
  const int64_t columns_in = form.columns_in;
  ENGRAM_CHECK(columns_out > 0 && columns_in > 0 && form.x_stride >= columns_in);
  ENGRAM_CHECK(values.size() == static_cast<size_t>(columns_out * columns_in));
  PackedMatrix matrix;
  matrix.columns_in_ = columns_in;
  matrix.columns_out_ = columns_out;
  matrix.x_stride_ = form.x_stride;
  matrix.panel_columns_ = PanelColumns(columns_out);
  constexpr uint64_t kAlignFloats = 16;
  std::vector<uint64_t> offsets;
  uint64_t floats = 0;
  for (int64_t begin = 0; begin < columns_out; begin += matrix.panel_columns_) {
    const int64_t width = std::min(matrix.panel_columns_, columns_out - begin);
    MatmulShape::Key key = form;
    key.columns_out = width;
    ENGRAM_ASSIGN_OR_RETURN(MatmulShape * shape, shapes->Get(key));
    matrix.panels_.push_back({shape, {}});
    offsets.push_back(floats);
    floats += RoundUp(shape->packed_desc().get_size() / sizeof(float), kAlignFloats);
  }
  ENGRAM_ASSIGN_OR_RETURN(
      matrix.buffer_, PageBuffer::Create(floats, floats > (1u << 20), "a packed weight matrix"));
  OneThreadInside();
  try {
    dnnl::stream stream(shapes->engine());
    for (size_t p = 0; p < matrix.panels_.size(); ++p) {
      Panel& panel = matrix.panels_[p];
      const int64_t begin = static_cast<int64_t>(p) * matrix.panel_columns_;
      const memory::desc desc({columns_in, panel.shape->key().columns_out}, kF32,
                              memory::dims{1, columns_in});
      memory source(desc, shapes->engine(), const_cast<float*>(values.data() + begin * columns_in));
      panel.weights =
          memory(panel.shape->packed_desc(), shapes->engine(), matrix.buffer_.data() + offsets[p]);
      dnnl::reorder(source, panel.weights).execute(stream, source, panel.weights);
      stream.wait();
    }
  } catch (const dnnl::error& error) {
    return Error(FromDnnl(error));
  }
  return matrix;
}

Status PackedMatrix::Prepare(uint32_t rows) {
  try {
    panels_.front().shape->Prepare(rows);
    panels_.back().shape->Prepare(rows);
  } catch (const dnnl::error& error) {
    return FromDnnl(error);
  }
  return {};
}

uint32_t PackedMatrix::RowsTouched(uint32_t rows) const {
  const uint32_t whole = rows / kMatmulRowsMax * kMatmulRowsMax;
  return whole + (rows == whole ? 0 : panels_.front().shape->CallRows(rows - whole));
}

size_t PackedMatrix::TaskCount(uint32_t rows) const {
  return panels_.size() * ((rows + kMatmulRowsMax - 1) / kMatmulRowsMax);
}

PackedMatrix::Task PackedMatrix::TaskAt(size_t task, uint32_t rows) const {
  // Tasks of one panel follow each other, so that it stays in the cache.
  const size_t calls = (rows + kMatmulRowsMax - 1) / kMatmulRowsMax;
  const int64_t column = static_cast<int64_t>(task / calls) * panel_columns_;
  const uint32_t row = static_cast<uint32_t>(task % calls) * kMatmulRowsMax;
  return {row, std::min(row + kMatmulRowsMax, rows), column,
          std::min(column + panel_columns_, columns_out_)};
}

bool PackedMatrix::RunTask(uint32_t thread, size_t task, uint32_t rows, const float* x,
                           float* y) const {
  const Task at = TaskAt(task, rows);
  return RunTile(thread, task, rows, x, y + at.row_begin * columns_out_ + at.column_begin);
}

bool PackedMatrix::RunTile(uint32_t thread, size_t task, uint32_t rows, const float* x,
                           float* tile) const {
  const Task at = TaskAt(task, rows);
  const Panel& panel = panels_[static_cast<size_t>(at.column_begin / panel_columns_)];
  return panel.shape->Run(thread, panel.weights, x + at.row_begin * x_stride_, tile,
                          at.row_end - at.row_begin);
}

}  // namespace engram
