// What engramctl make-model writes: config.json's content, the files and their tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"
#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/safetensors.h"
#include "engram/table/table_layout.h"
#include "engram/tokenizer/tokenizer.h"

namespace engram {

struct MakeModelOptions {
  Variant variant = Variant::kV41;
  // Engram. 0 = the variant's published value.
  std::vector<int32_t> engram_layers = {1, 14};  // decoder layers, from 0
  int64_t base_rows = 90000;                     // per column, before primes
  int32_t max_ngram_size = 0;                    // v41: 4, demo: 3
  int32_t engram_heads = 8;                      // per order
  uint32_t row_values = 0;                       // v41: 256, demo: 64
  int64_t pad_token_id = 2;
  uint64_t hash_seed = 0;           // demo only
  int32_t kernel_size = 4;          // demo only
  Dtype table_dtype = Dtype::kF32;  // demo only
  // Dense model (Qwen3). G = 1: the plain residual stream.
  bool tables_only = false;
  int32_t hidden_size = 256;
  int32_t intermediate_size = 768;
  int32_t layer_count = 16;
  int32_t head_count = 4;
  int32_t kv_head_count = 2;
  int32_t head_dim = 64;
  int32_t positions_max = 8192;
  // Rows of the embedding and output matrices, at least the tokenizer's; 0 = the tokenizer's. Those
  // above it stand for no token: a model has the cost of a large vocabulary with a small tokenizer.
  int32_t vocabulary_size = 0;
  bool tie_embeddings = false;
  Dtype dtype = Dtype::kBf16;
  uint64_t seed = 0;  // of the weights
};

// How a tensor's values are drawn.
enum class Fill : uint8_t {
  kNormal,     // mean 0, standard deviation `deviation`
  kAroundOne,  // mean 1: weights of norms
  kE4M3,
  kScales,
};

struct PlannedTensor {
  TensorToWrite tensor;
  Fill fill = Fill::kNormal;
  float deviation = 0;
};

struct PlannedFile {
  std::string name;
  std::vector<PlannedTensor> tensors;
};

struct ModelPlan {
  nlohmann::ordered_json config;
  std::vector<PlannedFile> files;
  TableSpec spec;
  std::vector<uint64_t> row_counts;  // [layers]
  uint64_t table_bytes = 0;          // of the table tensors
  uint64_t total_bytes = 0;          // of all tensors
  uint64_t parameters_non_embedding = 0;
};

// ERRORS: kInvalidArgument naming the option, what was found and what is allowed.
[[nodiscard]] Result<ModelPlan> PlanModel(const MakeModelOptions& options,
                                          const Tokenizer& tokenizer,
                                          const TokenCompression& compression);

[[nodiscard]] uint64_t TensorBytes(const TensorToWrite& tensor);

}  // namespace engram
