#include <limits>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/strict_json.h"

namespace engram {
namespace {

using nlohmann::json;

constexpr size_t kListMax = 256;

// Reads the keys of one object; the first fault stays. `where` is "" or "text_config.".
class KeyReader {
 public:
  KeyReader(const json& object, std::string where, std::string_view file)
      : object_(object), where_(std::move(where)), file_(file) {}

  // Null, as Hugging Face writes an unset key, is like an absent one.
  [[nodiscard]] bool Has(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }

  int64_t Integer(const char* key, int64_t low, int64_t high) {
    if (!Has(key)) {
      Fail(key, "is missing, expected " + Between(low, high));
      return low;
    }
    return ToInteger(key, object_[key], low, high);
  }
  int64_t Integer(const char* key, int64_t low, int64_t high, int64_t otherwise) {
    return Has(key) ? Integer(key, low, high) : otherwise;
  }

  std::vector<int64_t> List(const char* key, int64_t low, int64_t high) {
    std::vector<int64_t> list;
    if (!Has(key)) {
      Fail(key, "is missing, expected a list of whole numbers");
      return list;
    }
    const json& value = object_[key];
    if (!value.is_array() || value.empty() || value.size() > kListMax) {
      Fail(key, "is " + Found(value) + ", expected a list of 1 to " + std::to_string(kListMax) +
                    " whole numbers");
      return list;
    }
    for (const json& item : value) list.push_back(ToInteger(key, item, low, high));
    return list;
  }

  void Fail(const char* key, const std::string& what) {
    if (status_.ok()) {
      status_ =
          Status(StatusCode::kMalformed, std::string(file_) + ": key " + where_ + key + " " + what);
    }
  }
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  static std::string Between(int64_t low, int64_t high) {
    return "a whole number " + std::to_string(low) + ".." + std::to_string(high);
  }
  static std::string Found(const json& value) {
    if (value.is_array()) return "a list of " + std::to_string(value.size());
    if (value.is_object()) return "an object";
    if (value.is_string()) return "the text " + Quoted(value.get_ref<const std::string&>());
    return value.dump();
  }
  int64_t ToInteger(const char* key, const json& value, int64_t low, int64_t high) {
    const bool fits =
        value.is_number_unsigned()
            ? value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
            : value.is_number_integer();
    if (!fits || value.get<int64_t>() < low || value.get<int64_t>() > high) {
      Fail(key, "is or holds " + Found(value) + ", expected " + Between(low, high));
      return low;
    }
    return value.get<int64_t>();
  }

  const json& object_;
  std::string where_;
  std::string_view file_;
  Status status_;
};

constexpr int64_t kVocabularyMax = std::numeric_limits<int32_t>::max();
constexpr int64_t kSeedMax = int64_t{1} << 62;

void SetLayerIds(KeyReader& keys, const char* key, EngramConfig& config) {
  for (const int64_t id : keys.List(key, 0, 1 << 20)) {
    config.layer_ids.push_back(static_cast<int32_t>(id));
  }
}

Result<EngramConfig> ParseV41(const json& object, const std::string& where, std::string_view file) {
  KeyReader keys(object, where, file);
  EngramConfig config;
  config.variant = Variant::kV41;
  SetLayerIds(keys, "engram_layer_ids", config);
  config.max_ngram_size =
      static_cast<int32_t>(keys.Integer("engram_max_ngram_size", 2, kNgramSizeMax));
  config.head_count = static_cast<int32_t>(keys.Integer("engram_n_heads", 1, kHeadCountMax));
  const int64_t base = keys.Integer("engram_vocab_size", 1, kColumnRowsMax);
  config.base_sizes.assign(static_cast<size_t>(config.max_ngram_size - 1), base);
  config.row_values = static_cast<uint32_t>(keys.Integer("engram_head_dim", 1, kRowValuesMax));
  config.pad_token_id = keys.Integer("engram_pad_token_id", 0, kVocabularyMax);
  config.compressed_vocab_size = keys.Integer("engram_compressed_vocab_size", 1, kVocabularyMax);
  if (keys.Has("engram_num_embeddings")) {
    config.row_counts = keys.List("engram_num_embeddings", 1, std::numeric_limits<int64_t>::max());
    if (config.row_counts.size() != config.layer_ids.size()) {
      keys.Fail("engram_num_embeddings", "has " + std::to_string(config.row_counts.size()) +
                                             " numbers, expected one per " +
                                             "layer of engram_layer_ids, which has " +
                                             std::to_string(config.layer_ids.size()));
    }
  }
  if (!keys.status().ok()) return Error(keys.status());
  return config;
}

Result<EngramConfig> ParseDemo(const json& object, const std::string& where,
                               std::string_view file) {
  KeyReader keys(object, where + "engram_config.", file);
  EngramConfig config;
  config.variant = Variant::kDemo;
  SetLayerIds(keys, "layer_ids", config);
  config.max_ngram_size = static_cast<int32_t>(keys.Integer("max_ngram_size", 2, kNgramSizeMax));
  config.head_count = static_cast<int32_t>(keys.Integer("n_head_per_ngram", 1, kHeadCountMax));
  config.base_sizes = keys.List("engram_vocab_size", 1, kColumnRowsMax);
  if (config.base_sizes.size() != static_cast<size_t>(config.max_ngram_size - 1)) {
    keys.Fail("engram_vocab_size", "has " + std::to_string(config.base_sizes.size()) +
                                       " numbers, expected one per order, max_ngram_size - 1 = " +
                                       std::to_string(config.max_ngram_size - 1));
  }
  const int64_t per_ngram =
      keys.Integer("n_embed_per_ngram", 1, int64_t{kRowValuesMax} * kHeadCountMax);
  if (per_ngram % config.head_count != 0 || per_ngram / config.head_count > kRowValuesMax) {
    keys.Fail("n_embed_per_ngram", "is " + std::to_string(per_ngram) +
                                       ", expected a multiple of n_head_per_ngram = " +
                                       std::to_string(config.head_count) + " of at most " +
                                       std::to_string(kRowValuesMax) + " a head");
  }
  config.row_values = static_cast<uint32_t>(per_ngram / config.head_count);
  config.pad_token_id = keys.Integer("pad_id", 0, kVocabularyMax, 2);
  config.seed = static_cast<uint64_t>(keys.Integer("seed", 0, kSeedMax, 0));
  config.demo_kernel_size = static_cast<int32_t>(keys.Integer("kernel_size", 1, 64, 4));
  if (keys.Has("compressed_vocab_size")) {
    config.compressed_vocab_size = keys.Integer("compressed_vocab_size", 1, kVocabularyMax);
  }
  if (!keys.status().ok()) return Error(keys.status());
  return config;
}

bool HasKey(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

}  // namespace

Result<EngramConfig> ParseEngramConfig(std::string_view config_json, std::string_view name) {
  ENGRAM_ASSIGN_OR_RETURN(const json document, ParseStrictJson(config_json, name));
  struct Place {
    const json* object;
    std::string where;
    bool demo;
  };
  std::vector<Place> found;
  const auto look = [&](const json& object, const std::string& where) {
    if (HasKey(object, "engram_config")) found.push_back({&object, where, true});
    if (HasKey(object, "engram_layer_ids")) found.push_back({&object, where, false});
  };
  look(document, "");
  const auto text_config = document.find("text_config");
  if (text_config != document.end() && text_config->is_object()) look(*text_config, "text_config.");

  if (found.empty()) {
    return Error(StatusCode::kNotFound,
                 std::string(name) +
                     " has no Engram keys: neither engram_layer_ids (at top level " +
                     "or in text_config) nor engram_config");
  }
  if (found.size() > 1) {
    const auto key = [](const Place& place) {
      return place.where + (place.demo ? "engram_config" : "engram_layer_ids");
    };
    return Error(StatusCode::kMalformed, std::string(name) + " has both " + key(found[0]) +
                                             " and " + key(found[1]) + ", expected one of them");
  }
  const Place& place = found.front();
  if (!place.demo) return ParseV41(*place.object, place.where, name);
  const json& demo = (*place.object)["engram_config"];
  if (!demo.is_object()) {
    return Error(StatusCode::kMalformed,
                 std::string(name) + ": key " + place.where + "engram_config is not an object");
  }
  return ParseDemo(demo, place.where, name);
}

Result<EngramConfig> ReadEngramConfig(const std::filesystem::path& model_dir) {
  const auto file = model_dir / "config.json";
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(file));
  return ParseEngramConfig(text, file.string());
}

}  // namespace engram
