// A model's tables in this process's memory, as LocalRows reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "engram/base/status.h"
#include "engram/checkpoint/checkpoint_rows.h"
#include "engram/table/table_layout.h"

namespace engram {

// Rows without CRC, in row id order, on huge pages where the system gives them. Immutable after
// Load; thread-safe.
class LocalTables {
 public:
  using OnProgress = CheckpointRows::OnProgress;

  // Reads every table of the model folder in order, weights and scales interleaved.
  // ERRORS: kResourceExhausted with the bytes needed, those of CheckpointRows.
  [[nodiscard]] static Result<std::shared_ptr<const LocalTables>> Load(
      const std::filesystem::path& model_dir, std::shared_ptr<const TableLayout> layout,
      const OnProgress& on_progress = nullptr);
  ~LocalTables();
  LocalTables(const LocalTables&) = delete;
  LocalTables& operator=(const LocalTables&) = delete;

  [[nodiscard]] const TableLayout& layout() const { return *layout_; }
  [[nodiscard]] const std::shared_ptr<const TableLayout>& shared_layout() const { return layout_; }
  // Row r of the layer's table at [r * row_bytes].
  [[nodiscard]] const std::byte* rows(int32_t layer_index) const {
    return tables_[static_cast<size_t>(layer_index)].rows;
  }
  [[nodiscard]] uint64_t bytes() const;

 private:
  struct Table {
    std::byte* rows = nullptr;  // mapped, owned
    size_t bytes = 0;
  };
  explicit LocalTables(std::shared_ptr<const TableLayout> layout) : layout_(std::move(layout)) {}

  std::shared_ptr<const TableLayout> layout_;
  std::vector<Table> tables_;  // [layers]
};

}  // namespace engram
