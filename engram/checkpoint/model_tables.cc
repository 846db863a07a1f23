#include <string>
#include <utility>

#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/strict_json.h"
#include "engram/tokenizer/tokenizer.h"

namespace engram {
namespace {

constexpr int64_t kValuesPerScale = 32;

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + "]";
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

// The tensor [rows, width] of `dtype`, or why not.
Result<TensorInfo> FindTable(const TensorIndex& index, const std::string& name, Dtype dtype,
                             int64_t rows, int64_t width) {
  const TensorInfo* info = index.Find(name);
  if (info == nullptr) {
    return Error(StatusCode::kNotFound, "no tensor " + Quoted(name) + " (" +
                                            std::string(DtypeName(dtype)) + " " +
                                            ShapeText({rows, width}) + ") in the checkpoint");
  }
  const std::string which = info->file.string() + ": tensor " + Quoted(info->name) + " ";
  if (info->dtype != dtype) {
    return Error(StatusCode::kMalformed, which + "expected dtype " + std::string(DtypeName(dtype)) +
                                             ", found " + std::string(DtypeName(info->dtype)));
  }
  const std::vector<int64_t> expected = {rows, width};
  if (info->shape == expected) return *info;
  const std::string found =
      which + "expected shape " + ShapeText(expected) + ", found " + ShapeText(info->shape);
  if (info->shape.size() == 2 && info->shape[1] == width) {
    return Error(StatusCode::kWrongModel,
                 found + ": the row count follows from config.json and tokenizer.json; tables " +
                     "padded with more rows are not supported");
  }
  return Error(StatusCode::kMalformed, found);
}

// The demo's tables may be of any plain dtype: the first layer's says which.
Result<RowFormat> DemoRowFormat(const TensorIndex& index, int32_t layer_id) {
  const std::string name = TableWeightName(Variant::kDemo, layer_id);
  const TensorInfo* info = index.Find(name);
  if (info == nullptr) {
    return Error(StatusCode::kNotFound, "no tensor " + Quoted(name) + " in the checkpoint");
  }
  switch (info->dtype) {
    case Dtype::kF32:
      return RowFormat::kF32;
    case Dtype::kBf16:
      return RowFormat::kBf16;
    case Dtype::kF16:
      return RowFormat::kF16;
    default:
      return Error(StatusCode::kMalformed, info->file.string() + ": tensor " + Quoted(info->name) +
                                               " expected dtype F32, BF16 or F16, found " +
                                               std::string(DtypeName(info->dtype)));
  }
}

Status CheckVocabulary(const EngramConfig& config, const TokenCompression& compression,
                       const std::filesystem::path& model_dir) {
  const int64_t found = compression.compressed_vocab_size;
  if (config.compressed_vocab_size.has_value() && *config.compressed_vocab_size != found) {
    const char* key = config.variant == Variant::kV41 ? "engram_compressed_vocab_size"
                                                      : "engram_config.compressed_vocab_size";
    return Status(StatusCode::kWrongModel,
                  model_dir.string() + ": config.json says " + key + " = " +
                      std::to_string(*config.compressed_vocab_size) + ", tokenizer.json gives " +
                      std::to_string(found) + ": they do not belong together, every row id " +
                      "would differ");
  }
  const auto vocabulary = static_cast<int64_t>(compression.table.size());
  if (config.pad_token_id >= vocabulary) {
    return Status(StatusCode::kWrongModel,
                  model_dir.string() + ": config.json says the pad token is " +
                      std::to_string(config.pad_token_id) + ", tokenizer.json has the ids 0.." +
                      std::to_string(vocabulary - 1));
  }
  return Status();
}

Status CheckRowCounts(const EngramConfig& config, const TableLayout& layout,
                      const std::filesystem::path& model_dir) {
  for (size_t i = 0; i < config.row_counts.size(); ++i) {
    const uint64_t computed = layout.row_count(static_cast<int32_t>(i));
    if (static_cast<uint64_t>(config.row_counts[i]) == computed) continue;
    return Status(StatusCode::kWrongModel,
                  model_dir.string() + ": config.json says engram_num_embeddings[" +
                      std::to_string(i) + "] = " + std::to_string(config.row_counts[i]) +
                      ", expected " + std::to_string(computed) + " for layer " +
                      std::to_string(config.layer_ids[i]) + " by its other Engram keys");
  }
  return Status();
}

}  // namespace

std::string TableWeightName(Variant variant, int32_t layer_id) {
  return "layers." + std::to_string(layer_id) + ".engram." +
         (variant == Variant::kV41 ? "embed.weight" : "multi_head_embedding.embedding.weight");
}

std::string TableScaleName(int32_t layer_id) {
  return "layers." + std::to_string(layer_id) + ".engram.embed.scale";
}

HashSpec MakeHashSpec(const EngramConfig& config, int64_t compressed_vocab_size,
                      int64_t compressed_pad_id) {
  HashSpec spec;
  spec.variant = config.variant;
  spec.max_ngram_size = config.max_ngram_size;
  spec.head_count = config.head_count;
  spec.base_sizes = config.base_sizes;
  spec.layer_ids = config.layer_ids;
  spec.compressed_vocab_size = compressed_vocab_size;
  spec.pad_id = compressed_pad_id;
  spec.seed = config.seed;
  return spec;
}

Result<std::vector<TableTensors>> FindTableTensors(const TensorIndex& index,
                                                   const TableLayout& layout) {
  const TableSpec& spec = layout.spec();
  std::vector<TableTensors> tables;
  for (int32_t i = 0; i < layout.layer_count(); ++i) {
    TableTensors table;
    table.layer_id = spec.hash.layer_ids[static_cast<size_t>(i)];
    const auto rows = static_cast<int64_t>(layout.row_count(i));
    ENGRAM_ASSIGN_OR_RETURN(table.weight,
                            FindTable(index, TableWeightName(spec.hash.variant, table.layer_id),
                                      WeightDtype(spec.row_format), rows, spec.row_values));
    if (spec.row_format == RowFormat::kF8E4M3ScaleE8M0) {
      ENGRAM_ASSIGN_OR_RETURN(table.scale,
                              FindTable(index, TableScaleName(table.layer_id), Dtype::kF8E8M0, rows,
                                        spec.row_values / kValuesPerScale));
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

Result<ModelTables> ReadModelTables(const std::filesystem::path& model_dir, bool tensors_wanted) {
  ModelTables tables;
  ENGRAM_ASSIGN_OR_RETURN(tables.config, ReadEngramConfig(model_dir));
  const EngramConfig& config = tables.config;
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(model_dir / "tokenizer.json"));
  ENGRAM_ASSIGN_OR_RETURN(TokenCompression compression, CompressVocabulary(tokenizer));
  ENGRAM_TRY(CheckVocabulary(config, compression, model_dir));
  tables.compression = std::move(compression.table);

  const int32_t pad = tables.compression[static_cast<size_t>(config.pad_token_id)];
  tables.spec.hash = MakeHashSpec(config, compression.compressed_vocab_size, pad);
  tables.spec.row_values = config.row_values;
  tables.spec.row_format =
      config.variant == Variant::kV41 ? RowFormat::kF8E4M3ScaleE8M0 : RowFormat::kF32;
  std::optional<TensorIndex> index;
  if (tensors_wanted) {
    ENGRAM_ASSIGN_OR_RETURN(index, TensorIndex::Open(model_dir));
    if (config.variant == Variant::kDemo) {
      ENGRAM_ASSIGN_OR_RETURN(tables.spec.row_format,
                              DemoRowFormat(*index, config.layer_ids.front()));
    }
  }
  const auto layout = TableLayout::Create(tables.spec);
  if (!layout.has_value()) {
    return Error(layout.error().WithContext((model_dir / "config.json").string()));
  }
  ENGRAM_TRY(CheckRowCounts(config, *layout, model_dir));
  if (index.has_value()) {
    const auto found = FindTableTensors(*index, *layout);
    if (!found.has_value()) return Error(found.error().WithContext(model_dir.string()));
  }
  tables.identity = ComputeModelIdentity(tables.spec, tables.compression);
  return tables;
}

}  // namespace engram
