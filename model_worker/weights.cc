#include "model_worker/weights.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "engram/table/row_codec.h"

namespace engram {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

std::string Where(const TensorInfo& info) { return info.file.string() + ": tensor " + info.name; }

// Widens `bytes` to floats; the dtype was checked.
void Widen(Dtype dtype, std::span<const std::byte> bytes, float* out) {
  if (dtype == Dtype::kF32) {
    std::memcpy(out, bytes.data(), bytes.size());
    return;
  }
  for (size_t i = 0; i < bytes.size() / 2; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + 2 * i, sizeof(bits));
    out[i] = dtype == Dtype::kBf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  }
}

// Rank r's share of `count` things.
IndexRange ShareOf(int64_t count, const TensorPart& part) {
  const int64_t each = count / part.count;
  return {part.rank * each, (part.rank + 1) * each};
}

void KeepRows(const IndexRange& kept, Matrix* matrix) {
  const auto begin = matrix->values.begin() + kept.begin * matrix->columns;
  matrix->values = std::vector<float>(begin, begin + kept.size() * matrix->columns);
  matrix->rows = kept.size();
}

void KeepColumns(const IndexRange& kept, Matrix* matrix) {
  std::vector<float> values;
  values.reserve(static_cast<size_t>(matrix->rows * kept.size()));
  for (int64_t row = 0; row < matrix->rows; ++row) {
    const auto begin = matrix->values.begin() + row * matrix->columns + kept.begin;
    values.insert(values.end(), begin, begin + kept.size());
  }
  matrix->values = std::move(values);
  matrix->columns = kept.size();
}

class Loader {
 public:
  Loader(const ModelConfig& config, const TensorPart& part, const TensorIndex& index,
         std::filesystem::path model_dir)
      : config_(config), part_(part), index_(index), model_dir_(std::move(model_dir)) {}

  [[nodiscard]] Result<ModelWeights> Load() {
    ModelWeights weights;
    const int64_t hidden = config_.hidden_size;
    ENGRAM_TRY(
        ReadMatrix("embed_tokens.weight", config_.vocabulary_size, hidden, &weights.embedding));
    ENGRAM_TRY(ReadVector("norm.weight", hidden, &weights.final_norm));
    if (!config_.tie_word_embeddings) {
      ENGRAM_TRY(ReadMatrix("lm_head.weight", config_.vocabulary_size, hidden,
                            &weights.lm_head.emplace()));
    }
    for (int32_t l = 0; l < config_.layer_count; ++l) {
      ENGRAM_TRY(ReadLayer("layers." + std::to_string(l) + ".", &weights.layers.emplace_back()));
    }
    if (config_.engram.has_value()) ENGRAM_TRY(ReadEngram(&weights));
    weights.values_elsewhere = values_elsewhere_;
    return weights;
  }

 private:
  [[nodiscard]] Result<const TensorInfo*> Find(const std::string& name) const {
    if (const TensorInfo* info = index_.Find(name)) return info;
    return Error(StatusCode::kNotFound, model_dir_.string() + ": no tensor \"" + name +
                                            "\" (nor \"model." + name +
                                            "\"), which config.json asks for");
  }

  [[nodiscard]] Status Read(const std::string& name, const std::vector<int64_t>& shape,
                            std::vector<float>* out) const {
    const Result<const TensorInfo*> found = Find(name);
    if (!found.has_value()) return found.error();
    const TensorInfo& info = **found;
    if (info.shape != shape) {
      return Status(StatusCode::kMalformed, Where(info) + ": expected shape " + ShapeText(shape) +
                                                " from config.json, found " +
                                                ShapeText(info.shape));
    }
    if (info.dtype != Dtype::kBf16 && info.dtype != Dtype::kF16 && info.dtype != Dtype::kF32) {
      return Status(StatusCode::kMalformed, Where(info) +
                                                ": expected dtype BF16, F16 or F32, found " +
                                                std::string(DtypeName(info.dtype)));
    }
    return ReadValues(info, out);
  }

  [[nodiscard]] static Status ReadValues(const TensorInfo& info, std::vector<float>* out) {
    constexpr uint64_t kBounceBytes = 4u << 20;
    const uint32_t value_bytes = DtypeBytes(info.dtype);
    Result<TensorReader> reader = TensorReader::Open(info);
    if (!reader.has_value()) return std::move(reader).error();
    const size_t start = out->size();
    out->resize(start + info.byte_count / value_bytes);
    std::vector<std::byte> bounce(std::min(kBounceBytes, info.byte_count));
    for (uint64_t offset = 0; offset < info.byte_count; offset += bounce.size()) {
      const uint64_t count = std::min<uint64_t>(bounce.size(), info.byte_count - offset);
      const std::span<std::byte> part(bounce.data(), count);
      ENGRAM_RETURN_IF_ERROR(reader->Read(offset, part));
      Widen(info.dtype, part, out->data() + start + offset / value_bytes);
    }
    return {};
  }

  [[nodiscard]] Status ReadVector(const std::string& name, int64_t count,
                                  std::vector<float>* out) const {
    return Read(name, {count}, out);
  }

  // Appends the rows of one tensor to `out`.
  [[nodiscard]] Status ReadMatrix(const std::string& name, int64_t rows, int64_t columns,
                                  Matrix* out) const {
    out->rows += rows;
    out->columns = columns;
    return Read(name, {rows, columns}, &out->values);
  }

  // The part's outputs.
  [[nodiscard]] Status ReadRowsOf(const std::string& name, int64_t rows, int64_t columns,
                                  Matrix* out) {
    ENGRAM_RETURN_IF_ERROR(ReadMatrix(name, rows, columns, out));
    if (part_.count == 1) return {};
    KeepRows(ShareOf(rows, part_), out);
    values_elsewhere_ += static_cast<uint64_t>(rows * columns) - out->values.size();
    return {};
  }
  // The part's inputs.
  [[nodiscard]] Status ReadColumnsOf(const std::string& name, int64_t rows, int64_t columns,
                                     Matrix* out) {
    ENGRAM_RETURN_IF_ERROR(ReadMatrix(name, rows, columns, out));
    if (part_.count == 1) return {};
    KeepColumns(ShareOf(columns, part_), out);
    values_elsewhere_ += static_cast<uint64_t>(rows * columns) - out->values.size();
    return {};
  }

  [[nodiscard]] Status ReadLayer(const std::string& prefix, LayerWeights* layer) {
    const int64_t hidden = config_.hidden_size;
    const int64_t head_dim = config_.head_dim;
    const int64_t heads = config_.head_count * head_dim;
    const int64_t kv_heads = config_.kv_head_count * head_dim;
    const int64_t intermediate = config_.intermediate_size;
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    ENGRAM_RETURN_IF_ERROR(
        ReadVector(prefix + "input_layernorm.weight", hidden, &layer->input_norm));
    ENGRAM_RETURN_IF_ERROR(ReadRowsOf(attention + "q_proj.weight", heads, hidden, &layer->q));
    ENGRAM_RETURN_IF_ERROR(ReadRowsOf(attention + "k_proj.weight", kv_heads, hidden, &layer->k));
    ENGRAM_RETURN_IF_ERROR(ReadRowsOf(attention + "v_proj.weight", kv_heads, hidden, &layer->v));
    ENGRAM_RETURN_IF_ERROR(ReadColumnsOf(attention + "o_proj.weight", hidden, heads, &layer->o));
    ENGRAM_RETURN_IF_ERROR(ReadVector(attention + "q_norm.weight", head_dim, &layer->q_norm));
    ENGRAM_RETURN_IF_ERROR(ReadVector(attention + "k_norm.weight", head_dim, &layer->k_norm));
    ENGRAM_RETURN_IF_ERROR(ReadVector(prefix + "post_attention_layernorm.weight", hidden,
                                      &layer->post_attention_norm));
    ENGRAM_RETURN_IF_ERROR(
        ReadRowsOf(mlp + "gate_proj.weight", intermediate, hidden, &layer->gate));
    ENGRAM_RETURN_IF_ERROR(ReadRowsOf(mlp + "up_proj.weight", intermediate, hidden, &layer->up));
    return ReadColumnsOf(mlp + "down_proj.weight", hidden, intermediate, &layer->down);
  }

  [[nodiscard]] Status ReadEngram(ModelWeights* weights) const {
    const EngramConfig& engram = *config_.engram;
    ENGRAM_RETURN_IF_ERROR(ReadRowFormat(&weights->row_format));
    for (const int32_t id : engram.layer_ids) {
      EngramLayerWeights& layer = weights->engram.emplace_back();
      layer.layer_id = id;
      const std::string prefix = "layers." + std::to_string(id) + ".engram.";
      ENGRAM_RETURN_IF_ERROR(engram.variant == Variant::kV41 ? ReadV41(prefix, &layer)
                                                             : ReadDemo(prefix, &layer));
    }
    return {};
  }

  // How rows are stored, from the first layer's table tensor; one layout serves all layers.
  [[nodiscard]] Status ReadRowFormat(RowFormat* format) const {
    const EngramConfig& engram = *config_.engram;
    const bool v41 = engram.variant == Variant::kV41;
    *format = v41 ? RowFormat::kF8E4M3ScaleE8M0 : RowFormat::kF32;
    const std::string prefix = "layers." + std::to_string(engram.layer_ids.front()) + ".engram.";
    const TensorInfo* info =
        index_.Find(prefix + (v41 ? "embed.weight" : "multi_head_embedding.embedding.weight"));
    // A worker needs no tables of its own: its rows may come from memory nodes.
    if (info == nullptr) return {};
    switch (info->dtype) {
      case Dtype::kF8E4M3:
        *format = RowFormat::kF8E4M3ScaleE8M0;
        return {};
      case Dtype::kBf16:
        *format = RowFormat::kBf16;
        return {};
      case Dtype::kF16:
        *format = RowFormat::kF16;
        return {};
      case Dtype::kF32:
        *format = RowFormat::kF32;
        return {};
      default:
        return Status(StatusCode::kMalformed,
                      Where(*info) + ": expected dtype F8_E4M3, BF16, F16 or F32, found " +
                          std::string(DtypeName(info->dtype)));
    }
  }

  [[nodiscard]] Status ReadV41(const std::string& prefix, EngramLayerWeights* layer) const {
    const int64_t hidden = config_.hidden_size;
    const Result<const TensorInfo*> query = Find(prefix + "q_weight");
    if (!query.has_value()) return query.error();
    const std::vector<int64_t>& shape = (*query)->shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[0] > kBranchesMax) {
      return Status(StatusCode::kMalformed, Where(**query) + ": expected shape [branches, " +
                                                std::to_string(hidden) + "], found " +
                                                ShapeText(shape));
    }
    const int64_t branches = shape[0];
    layer->branch_count = static_cast<int32_t>(branches);
    ENGRAM_RETURN_IF_ERROR(Read(prefix + "q_weight", {branches, hidden}, &layer->query_norm));
    ENGRAM_RETURN_IF_ERROR(Read(prefix + "k_weight", {branches, hidden}, &layer->key_norm));
    return ReadMatrix(prefix + "wkv.weight", (branches + 1) * hidden, config_.engram_values(),
                      &layer->keys_value);
  }

  [[nodiscard]] Status ReadDemo(const std::string& prefix, EngramLayerWeights* layer) const {
    const int64_t hidden = config_.hidden_size;
    const int64_t values = config_.engram_values();
    int64_t branches = 0;
    while (branches < kBranchesMax &&
           index_.Find(prefix + "norm1." + std::to_string(branches) + ".weight") != nullptr) {
      ++branches;
    }
    if (branches == 0) return Find(prefix + "norm1.0.weight").error();
    layer->branch_count = static_cast<int32_t>(branches);
    for (int64_t g = 0; g < branches; ++g) {
      const std::string key = prefix + "key_projs." + std::to_string(g) + ".";
      ENGRAM_RETURN_IF_ERROR(ReadMatrix(key + "weight", hidden, values, &layer->keys_value));
      ENGRAM_RETURN_IF_ERROR(ReadVector(key + "bias", hidden, &layer->bias));
    }
    ENGRAM_RETURN_IF_ERROR(
        ReadMatrix(prefix + "value_proj.weight", hidden, values, &layer->keys_value));
    ENGRAM_RETURN_IF_ERROR(ReadVector(prefix + "value_proj.bias", hidden, &layer->bias));
    for (int64_t g = 0; g < branches; ++g) {
      const auto name_of = [&](const char* norm) {
        return std::string(prefix).append(norm).append(std::to_string(g)).append(".weight");
      };
      ENGRAM_RETURN_IF_ERROR(ReadVector(name_of("norm1."), hidden, &layer->key_norm));
      ENGRAM_RETURN_IF_ERROR(ReadVector(name_of("norm2."), hidden, &layer->query_norm));
      ENGRAM_RETURN_IF_ERROR(ReadVector(name_of("short_conv.norms."), hidden, &layer->conv_norm));
    }
    return Read(prefix + "short_conv.conv.weight",
                {branches * hidden, 1, config_.engram->demo_kernel_size}, &layer->conv);
  }

  static constexpr int64_t kBranchesMax = 64;
  const ModelConfig& config_;
  const TensorPart part_;
  const TensorIndex& index_;
  std::filesystem::path model_dir_;
  uint64_t values_elsewhere_ = 0;
};

}  // namespace

uint64_t ModelWeights::parameters_non_embedding() const {
  uint64_t count = final_norm.size() + values_elsewhere;
  for (const LayerWeights& l : layers) {
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) {
      count += m->values.size();
    }
    for (const std::vector<float>* v :
         {&l.input_norm, &l.q_norm, &l.k_norm, &l.post_attention_norm}) {
      count += v->size();
    }
  }
  for (const EngramLayerWeights& e : engram) {
    count += e.keys_value.values.size();
    for (const std::vector<float>* v :
         {&e.bias, &e.key_norm, &e.query_norm, &e.conv, &e.conv_norm}) {
      count += v->size();
    }
  }
  return count;
}

Result<ModelWeights> LoadWeights(const std::filesystem::path& model_dir, const ModelConfig& config,
                                 const TensorPart& part) {
  ENGRAM_TRY(CheckTensorPart(config, part));
  ENGRAM_ASSIGN_OR_RETURN(const TensorIndex index, TensorIndex::Open(model_dir));
  try {
    return Loader(config, part, index, model_dir).Load();
  } catch (const std::bad_alloc&) {
    return Error(StatusCode::kResourceExhausted,
                 model_dir.string() + ": not enough memory for the weights as fp32");
  }
}

}  // namespace engram
