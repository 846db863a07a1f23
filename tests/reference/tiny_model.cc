#include "tests/reference/tiny_model.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/base/check.h"
#include "engram/table/row_codec.h"

namespace engram::test {
namespace {

using Json = nlohmann::json;

class Writer {
 public:
  explicit Writer(const TinyModelShape& shape) : shape_(shape), random_(shape.seed) {}

  // Values around `center`.
  void Add(const std::string& name, std::vector<int64_t> dims, float center, float spread) {
    AddAs(shape_.dtype, name, std::move(dims), center, spread);
  }

  void AddAs(Dtype dtype, const std::string& name, std::vector<int64_t> dims, float center,
             float spread) {
    TinyTensor tensor{{shape_.name_prefix + name, dtype, std::move(dims)}, {}};
    const size_t count = Count(tensor.info.shape);
    std::normal_distribution<float> values(center, spread);
    tensor.bytes.resize(count * DtypeBytes(dtype));
    for (size_t i = 0; i < count; ++i) {
      const float value = values(random_);
      if (dtype == Dtype::kF32) {
        std::memcpy(tensor.bytes.data() + 4 * i, &value, 4);
      } else {
        const uint16_t bits = dtype == Dtype::kBf16 ? FloatToBf16(value) : HalfBits(value);
        std::memcpy(tensor.bytes.data() + 2 * i, &bits, 2);
      }
    }
    tensors.push_back(std::move(tensor));
  }

  // An FP8 table with its scales; gives the rows interleaved.
  std::vector<std::byte> AddFp8Table(const std::string& prefix, int64_t rows) {
    const auto width = static_cast<size_t>(shape_.row_values);
    TinyTensor weight{
        {shape_.name_prefix + prefix + "embed.weight", Dtype::kF8E4M3, {rows, shape_.row_values}},
        {}};
    TinyTensor scale{{shape_.name_prefix + prefix + "embed.scale",
                      Dtype::kF8E8M0,
                      {rows, shape_.row_values / 32}},
                     {}};
    std::vector<std::byte> stored;
    for (int64_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < width; ++i) {
        auto code = static_cast<uint8_t>(random_());
        if ((code & 0x7f) == 0x7f) code ^= 1;  // NaN
        weight.bytes.push_back(static_cast<std::byte>(code));
        stored.push_back(static_cast<std::byte>(code));
      }
      for (size_t i = 0; i < width / 32; ++i) {
        const auto code = static_cast<std::byte>(116 + random_() % 8);
        scale.bytes.push_back(code);
        stored.push_back(code);
      }
    }
    tensors.push_back(std::move(weight));
    tensors.push_back(std::move(scale));
    return stored;
  }

  std::vector<int32_t> Compression() {
    std::vector<int32_t> table;
    for (int32_t t = 0; t < shape_.vocabulary_size; ++t) {
      table.push_back(
          t < shape_.compressed_size
              ? t
              : static_cast<int32_t>(random_() % static_cast<uint32_t>(shape_.compressed_size)));
    }
    return table;
  }

  std::vector<TinyTensor> tensors;

 private:
  static size_t Count(const std::vector<int64_t>& dims) {
    size_t count = 1;
    for (const int64_t d : dims) count *= static_cast<size_t>(d);
    return count;
  }
  // Toward zero, normal numbers only: enough for random weights.
  static uint16_t HalfBits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const int exponent = static_cast<int>((bits >> 23) & 0xff) - 127 + 15;
    if (exponent <= 0) return static_cast<uint16_t>((bits >> 16) & 0x8000);
    return static_cast<uint16_t>(((bits >> 16) & 0x8000) | (static_cast<uint32_t>(exponent) << 10) |
                                 ((bits >> 13) & 0x3ff));
  }

  const TinyModelShape& shape_;
  std::mt19937 random_;
};

Json Config(const TinyModelShape& shape, const HashSpec& spec,
            const std::vector<int64_t>& row_counts) {
  Json config = {{"model_type", "qwen3"},
                 {"hidden_size", shape.hidden_size},
                 {"intermediate_size", shape.intermediate_size},
                 {"num_hidden_layers", shape.layer_count},
                 {"num_attention_heads", shape.head_count},
                 {"num_key_value_heads", shape.kv_head_count},
                 {"head_dim", shape.head_dim},
                 {"rms_norm_eps", 1e-6},
                 {"rope_theta", 10000.0},
                 {"rope_scaling", nullptr},
                 {"vocab_size", shape.vocabulary_size},
                 {"max_position_embeddings", 512},
                 {"hidden_act", "silu"},
                 {"attention_bias", false},
                 {"tie_word_embeddings", shape.tied},
                 {"eos_token_id", {1, 3}}};
  if (!shape.variant.has_value()) return config;
  if (*shape.variant == Variant::kV41) {
    config["engram_layer_ids"] = shape.engram_layers;
    config["engram_num_embeddings"] = row_counts;
    config["engram_max_ngram_size"] = shape.max_ngram_size;
    config["engram_vocab_size"] = shape.base_size;
    config["engram_n_heads"] = shape.engram_heads;
    config["engram_head_dim"] = shape.row_values;
    config["engram_pad_token_id"] = 2;
    config["engram_compressed_vocab_size"] = shape.compressed_size;
  } else {
    config["engram_config"] = {{"engram_vocab_size", spec.base_sizes},
                               {"max_ngram_size", shape.max_ngram_size},
                               {"n_embed_per_ngram", shape.row_values * shape.engram_heads},
                               {"n_head_per_ngram", shape.engram_heads},
                               {"layer_ids", shape.engram_layers},
                               {"pad_id", 2},
                               {"seed", spec.seed},
                               {"kernel_size", 4},
                               {"compressed_vocab_size", shape.compressed_size}};
  }
  return config;
}

void AddDecoder(const TinyModelShape& shape, Writer* writer) {
  const int64_t d = shape.hidden_size;
  const float spread = 1.0f / std::sqrt(static_cast<float>(d));
  writer->Add("embed_tokens.weight", {shape.vocabulary_size, d}, 0, 1.0f);
  if (!shape.tied) {
    // lm_head has no "model." in Hugging Face's files.
    writer->Add("lm_head.weight", {shape.vocabulary_size, d}, 0, spread);
    writer->tensors.back().info.name = "lm_head.weight";
  }
  writer->Add("norm.weight", {d}, 1.0f, 0.1f);
  for (int32_t l = 0; l < shape.layer_count; ++l) {
    const std::string p = "layers." + std::to_string(l) + ".";
    const int64_t q = int64_t{shape.head_count} * shape.head_dim;
    const int64_t kv = int64_t{shape.kv_head_count} * shape.head_dim;
    writer->Add(p + "input_layernorm.weight", {d}, 1.0f, 0.1f);
    writer->Add(p + "post_attention_layernorm.weight", {d}, 1.0f, 0.1f);
    writer->Add(p + "self_attn.q_proj.weight", {q, d}, 0, spread);
    writer->Add(p + "self_attn.k_proj.weight", {kv, d}, 0, spread);
    writer->Add(p + "self_attn.v_proj.weight", {kv, d}, 0, spread);
    writer->Add(p + "self_attn.o_proj.weight", {d, q}, 0, spread);
    writer->Add(p + "self_attn.q_norm.weight", {shape.head_dim}, 1.0f, 0.2f);
    writer->Add(p + "self_attn.k_norm.weight", {shape.head_dim}, 1.0f, 0.2f);
    writer->Add(p + "mlp.gate_proj.weight", {shape.intermediate_size, d}, 0, spread);
    writer->Add(p + "mlp.up_proj.weight", {shape.intermediate_size, d}, 0, spread);
    writer->Add(p + "mlp.down_proj.weight", {d, shape.intermediate_size}, 0, spread);
  }
}

void AddFusion(const TinyModelShape& shape, int32_t layer, Writer* writer) {
  const std::string p = "layers." + std::to_string(layer) + ".engram.";
  const int64_t d = shape.hidden_size;
  const int64_t g_count = shape.branch_count;
  const int64_t values = int64_t{shape.max_ngram_size - 1} * shape.engram_heads * shape.row_values;
  const float spread = 1.0f / std::sqrt(static_cast<float>(values));
  if (*shape.variant == Variant::kV41) {
    writer->Add(p + "wkv.weight", {(g_count + 1) * d, values}, 0, spread);
    writer->Add(p + "q_weight", {g_count, d}, 1.0f, 0.3f);
    writer->Add(p + "k_weight", {g_count, d}, 1.0f, 0.3f);
    return;
  }
  writer->Add(p + "value_proj.weight", {d, values}, 0, spread);
  writer->Add(p + "value_proj.bias", {d}, 0, 0.2f);
  for (int64_t g = 0; g < g_count; ++g) {
    const std::string dot_g = "." + std::to_string(g);
    writer->Add(p + "key_projs" + dot_g + ".weight", {d, values}, 0, spread);
    writer->Add(p + "key_projs" + dot_g + ".bias", {d}, 0, 0.2f);
    writer->Add(p + "norm1" + dot_g + ".weight", {d}, 1.0f, 0.3f);
    writer->Add(p + "norm2" + dot_g + ".weight", {d}, 1.0f, 0.3f);
    writer->Add(p + "short_conv.norms" + dot_g + ".weight", {d}, 1.0f, 0.3f);
  }
  writer->Add(p + "short_conv.conv.weight", {g_count * d, 1, 4}, 0, 0.5f);
}

constexpr uint32_t kNoRow = UINT32_MAX;

RowFormat FormatOf(Dtype dtype) {
  if (dtype == Dtype::kBf16) return RowFormat::kBf16;
  return dtype == Dtype::kF16 ? RowFormat::kF16 : RowFormat::kF32;
}

void WriteText(const std::filesystem::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::trunc);
  out << text;
  out.close();
  ENGRAM_CHECK(out.good());
}

}  // namespace

TinyModel TinyModel::Write(const TinyModelShape& shape, const std::filesystem::path& dir) {
  TinyModel model;
  model.shape_ = shape;
  model.dir_ = dir;
  std::filesystem::create_directories(dir);
  Writer writer(model.shape_);
  const std::vector<int32_t> compression = writer.Compression();
  AddDecoder(model.shape_, &writer);
  HashSpec spec;
  std::vector<int64_t> row_counts;
  if (shape.variant.has_value()) {
    spec.variant = *shape.variant;
    spec.max_ngram_size = shape.max_ngram_size;
    spec.head_count = shape.engram_heads;
    spec.base_sizes.assign(static_cast<size_t>(shape.max_ngram_size - 1), shape.base_size);
    spec.layer_ids = shape.engram_layers;
    spec.compressed_vocab_size = shape.compressed_size;
    spec.pad_id = compression[2];
    spec.seed = *shape.variant == Variant::kDemo ? 7 : 0;
    auto hasher = NgramHasher::Create(spec, compression);
    ENGRAM_CHECK(hasher.has_value());
    model.hasher_ = *std::move(hasher);
    const RowFormat format = *shape.variant == Variant::kV41 ? RowFormat::kF8E4M3ScaleE8M0
                                                             : FormatOf(shape.demo_table_dtype);
    auto layout = TableLayout::Create({spec, format, static_cast<uint32_t>(shape.row_values)});
    ENGRAM_CHECK(layout.has_value());
    model.layout_ = std::make_shared<const TableLayout>(*std::move(layout));
    for (size_t i = 0; i < shape.engram_layers.size(); ++i) {
      const int32_t layer = shape.engram_layers[i];
      AddFusion(model.shape_, layer, &writer);
      int64_t rows = 0;
      for (const uint32_t size : model.hasher_->column_sizes()[i]) rows += size;
      row_counts.push_back(rows);
      const std::string prefix = "layers." + std::to_string(layer) + ".engram.";
      if (*shape.variant == Variant::kV41) {
        model.tables_.push_back(writer.AddFp8Table(prefix, rows));
      } else {
        writer.AddAs(shape.demo_table_dtype, prefix + "multi_head_embedding.embedding.weight",
                     {rows, shape.row_values}, 0, 1.0f);
        model.tables_.push_back(writer.tensors.back().bytes);
      }
      model.row_bytes_ = model.tables_.back().size() / static_cast<size_t>(rows);
    }
  }
  std::vector<TensorToWrite> infos;
  for (const TinyTensor& tensor : writer.tensors) infos.push_back(tensor.info);
  auto file = SafetensorsWriter::Create(dir / "model.safetensors", infos);
  ENGRAM_CHECK(file.has_value());
  for (const TinyTensor& tensor : writer.tensors) {
    ENGRAM_CHECK(file->Append(tensor.bytes).ok());
  }
  ENGRAM_CHECK(file->Finish().ok());
  WriteText(dir / "config.json", Config(model.shape_, spec, row_counts).dump(1));
  WriteText(dir / "compression.json", Json(compression).dump());
  return model;
}

std::vector<uint32_t> TinyModel::RowIds(int32_t layer_index, std::span<const TokenRun> runs) const {
  const auto& sizes = hasher_->column_sizes()[static_cast<size_t>(layer_index)];
  std::vector<uint32_t> ids;
  for (const TokenRun& run : runs) {
    std::vector<uint32_t> buckets(sizes.size() * run.tokens.size());
    hasher_->Hash(layer_index, run, buckets.data(), run.tokens.size());
    for (size_t t = 0; t < run.tokens.size(); ++t) {
      const bool dead = !run.tokens_dead.empty() && run.tokens_dead[t] != 0;
      uint32_t offset = 0;
      for (size_t c = 0; c < sizes.size(); ++c) {
        ids.push_back(dead ? kNoRow : offset + buckets[c * run.tokens.size() + t]);
        offset += sizes[c];
      }
    }
  }
  return ids;
}

std::vector<std::byte> TinyModel::Rows(int32_t layer_index, std::span<const TokenRun> runs) const {
  const std::vector<std::byte>& table = tables_[static_cast<size_t>(layer_index)];
  std::vector<std::byte> out;
  for (const uint32_t id : RowIds(layer_index, runs)) {
    // Dead rows are never read; 0xff decodes to NaN, which would show anywhere it got to.
    if (id == kNoRow) {
      out.insert(out.end(), row_bytes_, std::byte{0xff});
      continue;
    }
    const auto begin = table.begin() + static_cast<ptrdiff_t>(id * row_bytes_);
    out.insert(out.end(), begin, begin + static_cast<ptrdiff_t>(row_bytes_));
  }
  return out;
}

TinyRows::TinyRows(const TinyModel& model, std::span<const TokenRun> runs, bool only_ids)
    : model_(model), only_ids_(only_ids), runs_(runs.begin(), runs.end()) {
  bool any_mask = false;
  for (const TokenRun& run : runs_) any_mask |= !run.tokens_dead.empty();
  if (!any_mask) return;
  for (const TokenRun& run : runs_) {
    for (size_t t = 0; t < run.tokens.size(); ++t) {
      dead_.push_back(run.tokens_dead.empty() ? 0 : run.tokens_dead[t]);
    }
  }
}

Result<std::span<const LayerRows>> TinyRows::Rows(int32_t layer_index) {
  asked_.push_back(layer_index);
  if (only_ids_) {
    const std::vector<uint32_t> ids = model_.RowIds(layer_index, runs_);
    const auto bytes = std::as_bytes(std::span(ids));
    kept_.emplace_back(bytes.begin(), bytes.end());
  } else {
    kept_.push_back(model_.Rows(layer_index, runs_));
  }
  size_t tokens = 0;
  for (const TokenRun& run : runs_) tokens += run.tokens.size();
  rows_ = {kept_.back(), dead_, static_cast<uint32_t>(tokens)};
  rows_.only_ids = only_ids_;
  return {{&rows_, 1}};
}

}  // namespace engram::test
