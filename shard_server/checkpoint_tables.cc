#include "shard_server/checkpoint_tables.h"

#include <string>
#include <utility>

#include "engram/checkpoint/model_files.h"
#include "shard_server/load_plan.h"

namespace engram {
namespace {

std::string TensorText(const TensorInfo& info) {
  std::string text = info.file.string() + ": tensor " + info.name + ": " +
                     std::string(DtypeName(info.dtype)) + " [";
  for (size_t i = 0; i < info.shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(info.shape[i]);
  }
  return text + "]";
}

// A tensor [rows, columns] of `dtype`, or why it is not there.
Result<TensorInfo> FindTensor(const TensorIndex& index, const std::string& name, Dtype dtype,
                              uint64_t rows, uint64_t columns) {
  const TensorInfo* info = index.Find(name);
  if (info == nullptr) return Error(StatusCode::kNotFound, "no tensor named " + name);
  const std::vector<int64_t> shape = {static_cast<int64_t>(rows), static_cast<int64_t>(columns)};
  if (info->dtype != dtype || info->shape != shape ||
      info->byte_count != rows * columns * DtypeBytes(dtype)) {
    return Error(StatusCode::kMalformed,
                 TensorText(*info) + ", expected " + std::string(DtypeName(dtype)) + " [" +
                     std::to_string(rows) + ", " + std::to_string(columns) + "]");
  }
  return *info;
}

Dtype WeightDtype(RowFormat format) {
  switch (format) {
    case RowFormat::kF8E4M3ScaleE8M0:
      return Dtype::kF8E4M3;
    case RowFormat::kBf16:
      return Dtype::kBf16;
    case RowFormat::kF16:
      return Dtype::kF16;
    case RowFormat::kF32:
      return Dtype::kF32;
  }
  return Dtype::kOther;
}

}  // namespace

Result<std::vector<LayerTensors>> OpenCheckpointTables(const std::filesystem::path& model_dir,
                                                       const ModelIdentity& identity,
                                                       const TableLayout& layout) {
  ENGRAM_ASSIGN_OR_RETURN(const ModelTables tables, ReadModelTables(model_dir, true));
  if (tables.identity != identity) {
    return Error(StatusCode::kWrongModel,
                 model_dir.string() + " has the model identity " +
                     ModelIdentityHex(tables.identity) + ", the version was made of " +
                     ModelIdentityHex(identity) +
                     ": config.json or tokenizer.json here differ from those the coordinator read");
  }
  ENGRAM_ASSIGN_OR_RETURN(const TensorIndex index, TensorIndex::Open(model_dir));
  const TableSpec& spec = layout.spec();
  const bool scaled = spec.row_format == RowFormat::kF8E4M3ScaleE8M0;
  std::vector<LayerTensors> layers;
  for (int32_t i = 0; i < layout.layer_count(); ++i) {
    const std::string prefix =
        "layers." + std::to_string(spec.hash.layer_ids[static_cast<size_t>(i)]) + ".engram.";
    const std::string name =
        prefix + (spec.hash.variant == Variant::kV41 ? "embed.weight"
                                                     : "multi_head_embedding.embedding.weight");
    LayerTensors layer;
    ENGRAM_ASSIGN_OR_RETURN(layer.weight, FindTensor(index, name, WeightDtype(spec.row_format),
                                                     layout.row_count(i), spec.row_values));
    if (scaled) {
      ENGRAM_ASSIGN_OR_RETURN(layer.scale,
                              FindTensor(index, prefix + "embed.scale", Dtype::kF8E8M0,
                                         layout.row_count(i), RowPartsOf(spec).scale_bytes));
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace engram
