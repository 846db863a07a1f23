// The tensors of a checkpoint that hold a version's tables.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "engram/base/status.h"
#include "engram/checkpoint/safetensors.h"
#include "engram/table/table_layout.h"

namespace engram {

// One layer's table.
struct LayerTensors {
  TensorInfo weight;                // [rows, row_values]
  std::optional<TensorInfo> scale;  // [rows, row_values / 32], kF8E4M3ScaleE8M0 only
};

// Reads config.json, tokenizer.json and the tensors' headers, no row. Gives [layers] tensors whose
// shapes and sizes are those of `layout`. Thread-safe; takes up to seconds (the tokenizer).
// ERRORS: kWrongModel when the folder's model identity is not `identity`: this node would hold rows
// that others do not mean; kMalformed (a tensor's dtype or shape), and those of the readers.
[[nodiscard]] Result<std::vector<LayerTensors>> OpenCheckpointTables(
    const std::filesystem::path& model_dir, const ModelIdentity& identity,
    const TableLayout& layout);

}  // namespace engram
