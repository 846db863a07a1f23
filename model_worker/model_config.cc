#include "model_worker/model_config.h"

#include <cmath>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/checkpoint/strict_json.h"

namespace engram {
namespace {

using Json = nlohmann::json;

constexpr int64_t kHiddenSizeMax = 1 << 16;
constexpr int64_t kIntermediateSizeMax = 1 << 20;
constexpr int64_t kLayersMax = 1024;
constexpr int64_t kHeadsMax = 1024;
constexpr int64_t kHeadDimMax = 1024;
constexpr int64_t kVocabularyMax = 1 << 24;
constexpr int64_t kPositionsMax = 1 << 24;
constexpr size_t kEosTokensMax = 64;
// Far from what fp32 rounds to zero.
constexpr double kEpsMin = 1e-20;
constexpr double kThetaMax = 1e15;

std::string Shown(const Json& value) {
  return value.is_string() ? Quoted(value.get_ref<const std::string&>())
                           : Quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

// Typed look-ups of the model's keys, in `text_config` first where that holds the model.
class Keys {
 public:
  Keys(const Json& root, std::string file) : root_(root), file_(std::move(file)) {
    const auto text = root.find("text_config");
    if (text != root.end() && text->is_object() && text->contains("hidden_size")) text_ = &*text;
  }

  // Null where the key is absent or null.
  [[nodiscard]] const Json* Find(const char* key) const {
    for (const Json* object : {text_, &root_}) {
      if (object == nullptr) continue;
      const auto found = object->find(key);
      if (found != object->end()) return found->is_null() ? nullptr : &*found;
    }
    return nullptr;
  }

  [[nodiscard]] Status Malformed(const char* key, const std::string& expected,
                                 const Json* found) const {
    return Status(StatusCode::kMalformed, file_ + ": " + key + ": expected " + expected +
                                              ", found " +
                                              (found == nullptr ? "nothing" : Shown(*found)));
  }
  [[nodiscard]] Status Unsupported(const char* key, const Json& found,
                                   const std::string& wanted) const {
    return Status(StatusCode::kInvalidArgument, file_ + ": " + key + " = " + Shown(found) +
                                                    " is not supported; this worker runs " +
                                                    wanted);
  }

  [[nodiscard]] Status Integer(const char* key, int64_t max, int32_t* out) const {
    const Json* value = Find(key);
    const std::string expected = "an integer from 1 to " + std::to_string(max);
    if (value == nullptr || !value->is_number_integer()) return Malformed(key, expected, value);
    // A number past int64 is unsigned and would come out negative: out of range either way.
    const auto number = value->get<int64_t>();
    if (number < 1 || number > max) return Malformed(key, expected, value);
    *out = static_cast<int32_t>(number);
    return {};
  }

  // Leaves *out where the key is absent.
  [[nodiscard]] Status Boolean(const char* key, bool* out) const {
    const Json* value = Find(key);
    if (value == nullptr) return {};
    if (!value->is_boolean()) return Malformed(key, "true or false", value);
    *out = value->get<bool>();
    return {};
  }

  // Leaves *out where `value` is null.
  [[nodiscard]] Status Number(const char* key, const Json* value, double min, double max,
                              double* out) const {
    if (value == nullptr) return {};
    const std::string expected = "a number from " + Json(min).dump() + " to " + Json(max).dump();
    if (!value->is_number()) return Malformed(key, expected, value);
    const auto number = value->get<double>();
    if (!(number >= min) || number > max) return Malformed(key, expected, value);
    *out = number;
    return {};
  }

  [[nodiscard]] Status RefuseTrue(const char* key, const std::string& wanted) const {
    bool set = false;
    ENGRAM_RETURN_IF_ERROR(Boolean(key, &set));
    return set ? Unsupported(key, Json(true), wanted) : Status();
  }

 private:
  const Json& root_;
  const Json* text_ = nullptr;
  std::string file_;
};

Status RefuseOtherModels(const Keys& keys) {
  if (const Json* type = keys.Find("model_type")) {
    if (!type->is_string()) return keys.Malformed("model_type", "a string", type);
    if (type->get_ref<const std::string&>() != "qwen3") {
      return keys.Unsupported("model_type", *type, "\"qwen3\"");
    }
  }
  if (const Json* act = keys.Find("hidden_act"); act != nullptr && *act != "silu") {
    return keys.Unsupported("hidden_act", *act, "\"silu\"");
  }
  if (const Json* experts = keys.Find("num_experts"); experts != nullptr && *experts != 0) {
    return keys.Unsupported("num_experts", *experts, "dense models");
  }
  if (const Json* quantized = keys.Find("quantization_config")) {
    return keys.Unsupported("quantization_config", *quantized, "BF16, F16 and F32 weights");
  }
  ENGRAM_RETURN_IF_ERROR(keys.RefuseTrue("attention_bias", "projections without bias"));
  ENGRAM_RETURN_IF_ERROR(keys.RefuseTrue("mlp_bias", "projections without bias"));
  ENGRAM_RETURN_IF_ERROR(keys.RefuseTrue("use_sliding_window", "full attention"));
  if (const Json* types = keys.Find("layer_types")) {
    if (!types->is_array()) return keys.Malformed("layer_types", "a list", types);
    for (const Json& type : *types) {
      if (type != "full_attention") return keys.Unsupported("layer_types", type, "full attention");
    }
  }
  return {};
}

// Older configs have rope_theta and rope_scaling, newer ones a rope_parameters object.
Status ReadRope(const Keys& keys, double* theta) {
  *theta = 10000.0;  // Hugging Face's default
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* rope = keys.Find(key);
    if (rope == nullptr) continue;
    if (!rope->is_object()) return keys.Malformed(key, "an object or null", rope);
    for (const char* type_key : {"rope_type", "type"}) {
      const auto type = rope->find(type_key);
      if (type != rope->end() && *type != "default") {
        return keys.Unsupported(key, *type, "plain RoPE (null, or rope_type \"default\")");
      }
    }
    if (!rope->contains("rope_type") && !rope->contains("type") && rope->contains("factor")) {
      return keys.Unsupported(key, *rope, "plain RoPE (null, or rope_type \"default\")");
    }
    const auto in_rope = rope->find("rope_theta");
    ENGRAM_RETURN_IF_ERROR(keys.Number("rope_parameters.rope_theta",
                                       in_rope == rope->end() ? nullptr : &*in_rope, 1.0, kThetaMax,
                                       theta));
  }
  return keys.Number("rope_theta", keys.Find("rope_theta"), 1.0, kThetaMax, theta);
}

Status ReadEos(const Keys& keys, int32_t vocabulary_size, std::vector<TokenId>* out) {
  const Json* value = keys.Find("eos_token_id");
  if (value == nullptr) return {};
  const std::string expected =
      "a token id below vocab_size, or a list of at most " + std::to_string(kEosTokensMax);
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > kEosTokensMax) return keys.Malformed("eos_token_id", expected, value);
  for (const Json& id : list) {
    if (!id.is_number_integer()) return keys.Malformed("eos_token_id", expected, value);
    const auto number = id.get<int64_t>();
    if (number < 0 || number >= vocabulary_size) {
      return keys.Malformed("eos_token_id", expected, value);
    }
    out->push_back(static_cast<TokenId>(number));
  }
  return {};
}

Status ReadSizes(const Keys& keys, ModelConfig* config) {
  ENGRAM_RETURN_IF_ERROR(keys.Integer("hidden_size", kHiddenSizeMax, &config->hidden_size));
  ENGRAM_RETURN_IF_ERROR(
      keys.Integer("intermediate_size", kIntermediateSizeMax, &config->intermediate_size));
  ENGRAM_RETURN_IF_ERROR(keys.Integer("num_hidden_layers", kLayersMax, &config->layer_count));
  ENGRAM_RETURN_IF_ERROR(keys.Integer("num_attention_heads", kHeadsMax, &config->head_count));
  ENGRAM_RETURN_IF_ERROR(keys.Integer("num_key_value_heads", kHeadsMax, &config->kv_head_count));
  ENGRAM_RETURN_IF_ERROR(keys.Integer("head_dim", kHeadDimMax, &config->head_dim));
  ENGRAM_RETURN_IF_ERROR(keys.Integer("vocab_size", kVocabularyMax, &config->vocabulary_size));
  ENGRAM_RETURN_IF_ERROR(
      keys.Integer("max_position_embeddings", kPositionsMax, &config->positions_max));
  if (config->head_count % config->kv_head_count != 0) {
    return keys.Malformed(
        "num_key_value_heads",
        "a divisor of num_attention_heads = " + std::to_string(config->head_count),
        keys.Find("num_key_value_heads"));
  }
  if (config->head_dim % 2 != 0) {
    return keys.Malformed("head_dim", "an even number (RoPE turns pairs)", keys.Find("head_dim"));
  }
  return {};
}

Status ReadKeys(const Keys& keys, ModelConfig* config) {
  ENGRAM_RETURN_IF_ERROR(RefuseOtherModels(keys));
  ENGRAM_RETURN_IF_ERROR(ReadSizes(keys, config));
  ENGRAM_RETURN_IF_ERROR(keys.Boolean("tie_word_embeddings", &config->tie_word_embeddings));
  double eps = 1e-6;
  ENGRAM_RETURN_IF_ERROR(
      keys.Number("rms_norm_eps", keys.Find("rms_norm_eps"), kEpsMin, 1.0, &eps));
  config->rms_norm_eps = static_cast<float>(eps);
  ENGRAM_RETURN_IF_ERROR(ReadRope(keys, &config->rope_theta));
  return ReadEos(keys, config->vocabulary_size, &config->eos_token_ids);
}

// The Engram layers must be decoder layers of this model.
Status CheckEngram(const ModelConfig& config, const std::filesystem::path& file) {
  std::set<int32_t> seen;
  for (const int32_t layer : config.engram->layer_ids) {
    if (layer < 0 || layer >= config.layer_count || !seen.insert(layer).second) {
      return Status(StatusCode::kMalformed,
                    file.string() + ": Engram layer id " + std::to_string(layer) +
                        ": expected different decoder layers from 0 to num_hidden_layers - 1 = " +
                        std::to_string(config.layer_count - 1));
    }
  }
  if (config.engram->demo_kernel_size < 1 || config.engram->demo_kernel_size > 64) {
    return Status(StatusCode::kMalformed, file.string() + ": kernel_size " +
                                              std::to_string(config.engram->demo_kernel_size) +
                                              ": expected 1 to 64");
  }
  return {};
}

}  // namespace

int32_t ModelConfig::engram_columns() const {
  return engram.has_value() ? (engram->max_ngram_size - 1) * engram->head_count : 0;
}

int32_t ModelConfig::engram_values() const {
  return engram.has_value() ? engram_columns() * static_cast<int32_t>(engram->row_values) : 0;
}

Result<ModelConfig> ParseModelConfig(std::string_view json, const std::filesystem::path& file) {
  ENGRAM_ASSIGN_OR_RETURN(const Json root, ParseStrictJson(json, file.string()));
  ModelConfig config;
  ENGRAM_TRY(ReadKeys(Keys(root, file.string()), &config));
  return config;
}

Result<ModelConfig> ReadModelConfig(const std::filesystem::path& model_dir) {
  const std::filesystem::path file = model_dir / "config.json";
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(file));
  ENGRAM_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text, file));
  Result<EngramConfig> engram = ReadEngramConfig(model_dir);
  if (engram.has_value()) {
    config.engram = *std::move(engram);
    ENGRAM_TRY(CheckEngram(config, file));
  } else if (engram.error().code() != StatusCode::kNotFound) {
    return Error(std::move(engram).error());
  }
  return config;
}

}  // namespace engram
