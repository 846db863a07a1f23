#include "client/local_tables.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include <sys/mman.h>

#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/safetensors.h"

namespace engram {
namespace {

constexpr uint64_t kRowsPerRead = 16384;

// Copies the rows of one layer; `done` counts bytes over all layers.
Status ReadTable(const TableTensors& tensors, const TableLayout& layout, int32_t layer_index,
                 std::byte* rows, uint64_t* done, uint64_t total,
                 const LocalTables::OnProgress& on_progress) {
  const uint64_t row_count = layout.row_count(layer_index);
  const uint32_t row_bytes = layout.row_bytes();
  auto weights = TensorReader::Open(tensors.weight);
  if (!weights.has_value()) return weights.error();
  const bool scaled = tensors.scale.has_value();
  const uint32_t weight_bytes = scaled ? layout.spec().row_values : row_bytes;
  const uint32_t scale_bytes = row_bytes - weight_bytes;
  auto scales = TensorReader::Open(scaled ? *tensors.scale : tensors.weight);
  if (!scales.has_value()) return scales.error();
  std::vector<std::byte> weight_part(scaled ? kRowsPerRead * weight_bytes : 0);
  std::vector<std::byte> scale_part(kRowsPerRead * scale_bytes);
  for (uint64_t row = 0; row < row_count; row += kRowsPerRead) {
    const uint64_t count = std::min(kRowsPerRead, row_count - row);
    std::byte* target = rows + row * row_bytes;
    if (!scaled) {
      ENGRAM_RETURN_IF_ERROR(weights->Read(row * row_bytes, {target, count * row_bytes}));
    } else {
      ENGRAM_RETURN_IF_ERROR(
          weights->Read(row * weight_bytes, {weight_part.data(), count * weight_bytes}));
      ENGRAM_RETURN_IF_ERROR(
          scales->Read(row * scale_bytes, {scale_part.data(), count * scale_bytes}));
      for (uint64_t i = 0; i < count; ++i) {
        std::byte* out = target + i * row_bytes;
        std::memcpy(out, weight_part.data() + i * weight_bytes, weight_bytes);
        std::memcpy(out + weight_bytes, scale_part.data() + i * scale_bytes, scale_bytes);
      }
    }
    *done += count * row_bytes;
    if (on_progress) on_progress(*done, total);
  }
  return {};
}

}  // namespace

Result<std::shared_ptr<const LocalTables>> LocalTables::Load(
    const std::filesystem::path& model_dir, std::shared_ptr<const TableLayout> layout,
    const OnProgress& on_progress) {
  ENGRAM_ASSIGN_OR_RETURN(const TensorIndex index, TensorIndex::Open(model_dir));
  ENGRAM_ASSIGN_OR_RETURN(const std::vector<TableTensors> tensors,
                          FindTableTensors(index, *layout));
  auto tables = std::shared_ptr<LocalTables>(new LocalTables(std::move(layout)));
  const TableLayout& shape = *tables->layout_;
  uint64_t total = 0;
  for (int32_t i = 0; i < shape.layer_count(); ++i) total += shape.row_count(i) * shape.row_bytes();
  uint64_t done = 0;
  for (int32_t i = 0; i < shape.layer_count(); ++i) {
    constexpr size_t kHugePageBytes = size_t{2} << 20;
    Table table;
    table.bytes = (shape.row_count(i) * shape.row_bytes() + kHugePageBytes - 1) / kHugePageBytes *
                  kHugePageBytes;
    void* memory =
        mmap(nullptr, table.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      return Error(StatusCode::kResourceExhausted, "the tables need " + std::to_string(total) +
                                                       " bytes of memory in this process (" +
                                                       std::strerror(errno) +
                                                       "): read them from memory nodes instead");
    }
    (void)madvise(memory, table.bytes, MADV_HUGEPAGE);  // only faster: no error if refused
    table.rows = static_cast<std::byte*>(memory);
    tables->tables_.push_back(table);
    ENGRAM_TRY(ReadTable(tensors[static_cast<size_t>(i)], shape, i, table.rows, &done, total,
                         on_progress));
  }
  return tables;
}

LocalTables::~LocalTables() {
  for (const Table& table : tables_) munmap(table.rows, table.bytes);
}

uint64_t LocalTables::bytes() const {
  uint64_t bytes = 0;
  for (const Table& table : tables_) bytes += table.bytes;
  return bytes;
}

}  // namespace engram
