#include "tools/model_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

namespace engram {
namespace {

using nlohmann::ordered_json;

constexpr float kNormDeviation = 0.1f;
// Rows of this size make gate * value as large as the residual stream, so that Engram on or off
// decides the next token.
constexpr float kPlainRowDeviation = 2.0f;

Status Wrong(std::string_view option, int64_t found, const std::string& allowed) {
  return Status(StatusCode::kInvalidArgument,
                std::string(option) + " is " + std::to_string(found) + ", expected " + allowed);
}

Status CheckRange(std::string_view option, int64_t found, int64_t low, int64_t high) {
  if (found >= low && found <= high) return Status();
  return Wrong(option, found, std::to_string(low) + ".." + std::to_string(high));
}

Status CheckDense(const MakeModelOptions& o) {
  ENGRAM_RETURN_IF_ERROR(CheckRange("--hidden", o.hidden_size, 1, 1 << 16));
  ENGRAM_RETURN_IF_ERROR(CheckRange("--intermediate", o.intermediate_size, 1, 1 << 18));
  ENGRAM_RETURN_IF_ERROR(CheckRange("--layers", o.layer_count, 1, 1000));
  ENGRAM_RETURN_IF_ERROR(CheckRange("--heads", o.head_count, 1, 1024));
  ENGRAM_RETURN_IF_ERROR(CheckRange("--kv-heads", o.kv_head_count, 1, o.head_count));
  ENGRAM_RETURN_IF_ERROR(CheckRange("--head-dim", o.head_dim, 2, 1024));
  ENGRAM_RETURN_IF_ERROR(CheckRange("--positions", o.positions_max, 1, 1 << 24));
  if (o.head_count % o.kv_head_count != 0) {
    return Wrong("--kv-heads", o.kv_head_count,
                 "a divisor of --heads = " + std::to_string(o.head_count));
  }
  if (o.head_dim % 2 != 0) return Wrong("--head-dim", o.head_dim, "an even number (for RoPE)");
  for (const int32_t layer : o.engram_layers) {
    ENGRAM_RETURN_IF_ERROR(CheckRange("a layer of --layers-engram", layer, 0, o.layer_count - 1));
  }
  return Status();
}

// Fills in what the variant decides.
MakeModelOptions WithDefaults(MakeModelOptions o) {
  const bool v41 = o.variant == Variant::kV41;
  if (o.max_ngram_size == 0) o.max_ngram_size = v41 ? 4 : 3;
  if (o.row_values == 0) o.row_values = v41 ? 256 : 64;
  return o;
}

TableSpec SpecOf(const MakeModelOptions& o, const TokenCompression& compression) {
  TableSpec spec;
  spec.hash.variant = o.variant;
  spec.hash.max_ngram_size = o.max_ngram_size;
  spec.hash.head_count = o.engram_heads;
  spec.hash.base_sizes.assign(static_cast<size_t>(o.max_ngram_size - 1), o.base_rows);
  spec.hash.layer_ids = o.engram_layers;
  spec.hash.compressed_vocab_size = compression.compressed_vocab_size;
  spec.hash.pad_id = compression.table[static_cast<size_t>(o.pad_token_id)];
  spec.row_values = o.row_values;
  if (o.variant == Variant::kV41) {
    spec.row_format = RowFormat::kF8E4M3ScaleE8M0;
  } else {
    spec.hash.seed = o.hash_seed;
    spec.row_format = o.table_dtype == Dtype::kBf16  ? RowFormat::kBf16
                      : o.table_dtype == Dtype::kF16 ? RowFormat::kF16
                                                     : RowFormat::kF32;
  }
  return spec;
}

// The id of the first of `names` that the tokenizer has, or null.
ordered_json FindToken(const Tokenizer& tokenizer, std::span<const std::string_view> names) {
  for (const std::string_view name : names) {
    for (TokenId id = tokenizer.vocabulary_size() - 1; id >= 0; --id) {
      if (tokenizer.TokenString(id) == name) return id;
    }
  }
  return nullptr;
}

int32_t VocabularySize(const MakeModelOptions& o, const Tokenizer& tokenizer) {
  return o.vocabulary_size == 0 ? tokenizer.vocabulary_size() : o.vocabulary_size;
}

ordered_json MakeConfig(const MakeModelOptions& o, const TableSpec& spec,
                        const std::vector<uint64_t>& row_counts, const Tokenizer& tokenizer) {
  static constexpr std::array<std::string_view, 5> kBegin = {
      "<｜begin▁of▁sentence｜>", "<|begin_of_text|>", "<|begin|>", "<s>", "<bos>"};
  static constexpr std::array<std::string_view, 6> kEnd = {
      "<｜end▁of▁sentence｜>", "<|im_end|>", "<|end_of_text|>", "<|end|>", "</s>", "<eos>"};
  ordered_json config;
  config["architectures"] = {"Qwen3ForCausalLM"};
  config["model_type"] = "qwen3";
  config["vocab_size"] = VocabularySize(o, tokenizer);
  config["bos_token_id"] = FindToken(tokenizer, kBegin);
  config["eos_token_id"] = FindToken(tokenizer, kEnd);
  config["torch_dtype"] = o.dtype == Dtype::kF32 ? "float32" : "bfloat16";
  if (!o.tables_only) {
    config["hidden_size"] = o.hidden_size;
    config["intermediate_size"] = o.intermediate_size;
    config["num_hidden_layers"] = o.layer_count;
    config["num_attention_heads"] = o.head_count;
    config["num_key_value_heads"] = o.kv_head_count;
    config["head_dim"] = o.head_dim;
    config["hidden_act"] = "silu";
    config["attention_bias"] = false;
    config["rms_norm_eps"] = 1e-6;
    config["rope_theta"] = 1000000;
    config["max_position_embeddings"] = o.positions_max;
    config["tie_word_embeddings"] = o.tie_embeddings;
  }
  if (o.variant == Variant::kV41) {
    config["engram_layer_ids"] = o.engram_layers;
    config["engram_num_embeddings"] = row_counts;
    config["engram_max_ngram_size"] = o.max_ngram_size;
    config["engram_vocab_size"] = o.base_rows;
    config["engram_n_heads"] = o.engram_heads;
    config["engram_head_dim"] = o.row_values;
    config["engram_pad_token_id"] = o.pad_token_id;
    config["engram_compressed_vocab_size"] = spec.hash.compressed_vocab_size;
  } else {
    config["engram_config"] = {
        {"engram_vocab_size", spec.hash.base_sizes},
        {"max_ngram_size", o.max_ngram_size},
        {"n_embed_per_ngram", static_cast<int64_t>(o.row_values) * o.engram_heads},
        {"n_head_per_ngram", o.engram_heads},
        {"layer_ids", o.engram_layers},
        {"pad_id", o.pad_token_id},
        {"seed", o.hash_seed},
        {"kernel_size", o.kernel_size},
        {"compressed_vocab_size", spec.hash.compressed_vocab_size}};
  }
  return config;
}

float FanIn(int64_t inputs) { return 1.0f / std::sqrt(static_cast<float>(inputs)); }

class TensorList {
 public:
  TensorList(Dtype dtype, std::vector<PlannedTensor>* out) : dtype_(dtype), out_(out) {}
  void Normal(std::string name, std::vector<int64_t> shape, float deviation) {
    out_->push_back({{std::move(name), dtype_, std::move(shape)}, Fill::kNormal, deviation});
  }
  void Norm(std::string name, std::vector<int64_t> shape) {
    out_->push_back(
        {{std::move(name), dtype_, std::move(shape)}, Fill::kAroundOne, kNormDeviation});
  }

 private:
  Dtype dtype_;
  std::vector<PlannedTensor>* out_;
};

// Engram's own weights of one layer, G = 1; every output of the products has the size of a row.
void AddFusion(const MakeModelOptions& o, const TableSpec& spec, int32_t layer, TensorList& list) {
  const int64_t d = o.hidden_size;
  const int64_t values = int64_t{spec.hash.column_count()} * spec.row_values;
  const std::string prefix = "layers." + std::to_string(layer) + ".engram.";
  if (o.variant == Variant::kV41) {
    list.Normal(prefix + "wkv.weight", {2 * d, values}, FanIn(values));
    list.Norm(prefix + "q_weight", {1, d});
    list.Norm(prefix + "k_weight", {1, d});
    return;
  }
  list.Normal(prefix + "value_proj.weight", {d, values}, FanIn(values));
  list.Normal(prefix + "value_proj.bias", {d}, 0.02f);
  list.Normal(prefix + "key_projs.0.weight", {d, values}, FanIn(values));
  list.Normal(prefix + "key_projs.0.bias", {d}, 0.02f);
  list.Norm(prefix + "norm1.0.weight", {d});
  list.Norm(prefix + "norm2.0.weight", {d});
  list.Normal(prefix + "short_conv.conv.weight", {d, 1, o.kernel_size}, FanIn(o.kernel_size));
  list.Norm(prefix + "short_conv.norms.0.weight", {d});
}

// The residual stream starts at size 1, and all sublayers together about double its square.
PlannedFile PlanDense(const MakeModelOptions& o, const TableSpec& spec, int32_t vocabulary_size) {
  PlannedFile file;
  TensorList list(o.dtype, &file.tensors);
  const int64_t d = o.hidden_size;
  const int64_t queries = int64_t{o.head_count} * o.head_dim;
  const int64_t keys = int64_t{o.kv_head_count} * o.head_dim;
  const float share = 1.0f / std::sqrt(2.0f * static_cast<float>(o.layer_count));
  list.Normal("model.embed_tokens.weight", {vocabulary_size, d},
              o.tie_embeddings ? FanIn(d) : 1.0f);
  for (int32_t i = 0; i < o.layer_count; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    list.Norm(prefix + "input_layernorm.weight", {d});
    list.Normal(prefix + "self_attn.q_proj.weight", {queries, d}, FanIn(d));
    list.Normal(prefix + "self_attn.k_proj.weight", {keys, d}, FanIn(d));
    list.Normal(prefix + "self_attn.v_proj.weight", {keys, d}, FanIn(d));
    list.Normal(prefix + "self_attn.o_proj.weight", {d, queries}, share * FanIn(queries));
    list.Norm(prefix + "self_attn.q_norm.weight", {o.head_dim});
    list.Norm(prefix + "self_attn.k_norm.weight", {o.head_dim});
    list.Norm(prefix + "post_attention_layernorm.weight", {d});
    list.Normal(prefix + "mlp.gate_proj.weight", {o.intermediate_size, d}, FanIn(d));
    list.Normal(prefix + "mlp.up_proj.weight", {o.intermediate_size, d}, FanIn(d));
    list.Normal(prefix + "mlp.down_proj.weight", {d, o.intermediate_size},
                2 * share * FanIn(o.intermediate_size));
  }
  list.Norm("model.norm.weight", {d});
  if (!o.tie_embeddings) list.Normal("lm_head.weight", {vocabulary_size, d}, FanIn(d));
  for (const int32_t layer : o.engram_layers) AddFusion(o, spec, layer, list);
  return file;
}

PlannedFile PlanTable(const MakeModelOptions& o, const TableSpec& spec, int32_t layer,
                      int64_t rows) {
  PlannedFile file;
  const std::string name = TableWeightName(o.variant, layer);
  if (o.variant == Variant::kV41) {
    file.tensors.push_back({{name, Dtype::kF8E4M3, {rows, spec.row_values}}, Fill::kE4M3, 0});
    file.tensors.push_back(
        {{TableScaleName(layer), Dtype::kF8E8M0, {rows, spec.row_values / 32}}, Fill::kScales, 0});
  } else {
    file.tensors.push_back(
        {{name, o.table_dtype, {rows, spec.row_values}}, Fill::kNormal, kPlainRowDeviation});
  }
  return file;
}

std::string FileName(size_t number, size_t count) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", number, count);
  return name.data();
}

uint64_t Elements(const TensorToWrite& tensor) {
  uint64_t elements = 1;
  for (const int64_t size : tensor.shape) elements *= static_cast<uint64_t>(size);
  return elements;
}

}  // namespace

uint64_t TensorBytes(const TensorToWrite& tensor) {
  return Elements(tensor) * DtypeBytes(tensor.dtype);
}

Result<ModelPlan> PlanModel(const MakeModelOptions& options, const Tokenizer& tokenizer,
                            const TokenCompression& compression) {
  const MakeModelOptions o = WithDefaults(options);
  if (!o.tables_only) ENGRAM_TRY(CheckDense(o));
  if (o.vocabulary_size != 0) {
    ENGRAM_TRY(CheckRange("--vocab-size", o.vocabulary_size, tokenizer.vocabulary_size(), 1 << 24));
  }
  ENGRAM_TRY(CheckRange("--ngram-max", o.max_ngram_size, 2, kNgramSizeMax));
  ENGRAM_TRY(CheckRange("--kernel-size", o.kernel_size, 1, 64));
  ENGRAM_TRY(CheckRange("--pad-token-id", o.pad_token_id, 0,
                        static_cast<int64_t>(compression.table.size()) - 1));
  ModelPlan plan;
  plan.spec = SpecOf(o, compression);
  auto layout = TableLayout::Create(plan.spec);
  if (!layout.has_value()) return Error(layout.error().WithContext("the Engram options"));

  if (!o.tables_only) plan.files.push_back(PlanDense(o, plan.spec, VocabularySize(o, tokenizer)));
  for (const PlannedFile& file : plan.files) {
    for (const PlannedTensor& planned : file.tensors) {
      const std::string& name = planned.tensor.name;
      if (name != "model.embed_tokens.weight" && name != "lm_head.weight") {
        plan.parameters_non_embedding += Elements(planned.tensor);
      }
    }
  }
  for (int32_t i = 0; i < layout->layer_count(); ++i) {
    const int32_t layer = o.engram_layers[static_cast<size_t>(i)];
    plan.row_counts.push_back(layout->row_count(i));
    plan.files.push_back(
        PlanTable(o, plan.spec, layer, static_cast<int64_t>(layout->row_count(i))));
    plan.table_bytes += layout->row_count(i) * layout->row_bytes();
  }
  for (size_t i = 0; i < plan.files.size(); ++i) {
    plan.files[i].name = FileName(i + 1, plan.files.size());
    for (const PlannedTensor& planned : plan.files[i].tensors) {
      plan.total_bytes += TensorBytes(planned.tensor);
    }
  }
  plan.config = MakeConfig(o, plan.spec, plan.row_counts, tokenizer);
  return plan;
}

}  // namespace engram
