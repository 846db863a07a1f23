// The model's part of config.json: what is accepted keeps its bounds.
#include <cstdint>
#include <string_view>

#include "engram/base/check.h"
#include "model_worker/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto config = engram::ParseModelConfig(json, "fuzz");
  if (!config.has_value()) {
    ENGRAM_CHECK(!config.error().message().empty());
    return 0;
  }
  ENGRAM_CHECK(config->hidden_size >= 1 && config->intermediate_size >= 1);
  ENGRAM_CHECK(config->layer_count >= 1 && config->layer_count <= 1024);
  ENGRAM_CHECK(config->kv_head_count >= 1 && config->head_count % config->kv_head_count == 0);
  ENGRAM_CHECK(config->head_dim >= 2 && config->head_dim % 2 == 0);
  ENGRAM_CHECK(config->rms_norm_eps > 0 && config->rope_theta > 0);
  ENGRAM_CHECK(config->positions_max >= 1);
  for (const engram::TokenId id : config->eos_token_ids) {
    ENGRAM_CHECK(id >= 0 && id < config->vocabulary_size);
  }
  return 0;
}
