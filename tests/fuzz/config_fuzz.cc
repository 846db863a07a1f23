// config.json's Engram part: what is accepted keeps its bounds, whatever the vocabulary.
#include <cstdint>
#include <string_view>

#include "engram/base/check.h"
#include "engram/checkpoint/model_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto config = engram::ParseEngramConfig(json, "fuzz");
  if (!config.has_value()) {
    ENGRAM_CHECK(!config.error().message().empty());
    return 0;
  }
  ENGRAM_CHECK(config->max_ngram_size >= 2 && config->max_ngram_size <= engram::kNgramSizeMax);
  ENGRAM_CHECK(config->base_sizes.size() == static_cast<size_t>(config->max_ngram_size - 1));
  ENGRAM_CHECK(!config->layer_ids.empty());
  ENGRAM_CHECK(config->row_values >= 1 && config->row_values <= engram::kRowValuesMax);
  ENGRAM_CHECK(config->row_counts.empty() || config->row_counts.size() == config->layer_ids.size());
  // Validation says yes or no, and never more.
  const engram::HashSpec spec = engram::MakeHashSpec(*config, 1000, 2);
  (void)engram::ValidateHashSpec(spec);
  return 0;
}
