// A model's weights but its Engram tables, as fp32 in Hugging Face's layout ([out][in]).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "engram/base/status.h"
#include "engram/checkpoint/safetensors.h"
#include "engram/table/table_layout.h"
#include "model_worker/model_config.h"
#include "model_worker/tensor_part.h"

namespace engram {

// y = W x: [rows = outputs][columns = inputs], row-major.
struct Matrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<float> values;
};

// heads, kv_heads and intermediate are those of the part that was loaded.
struct LayerWeights {
  std::vector<float> input_norm;           // [hidden]
  Matrix q, k, v;                          // [heads * head_dim][hidden]
  Matrix o;                                // [hidden][heads * head_dim]
  std::vector<float> q_norm, k_norm;       // [head_dim]
  std::vector<float> post_attention_norm;  // [hidden]
  Matrix gate, up;                         // [intermediate][hidden]
  Matrix down;                             // [hidden][intermediate]
};

// Fusion of one Engram layer (docs/formats/row_ids.md has the rows; formulas in fusion.h).
struct EngramLayerWeights {
  int32_t layer_id = 0;           // the decoder layer, from 0, that it precedes
  int32_t branch_count = 1;       // G
  Matrix keys_value;              // [(G + 1) * hidden][engram values]: G keys, then the value
  std::vector<float> bias;        // [(G + 1) * hidden]; empty in v41
  std::vector<float> key_norm;    // [G][hidden]: v41 k_weight, demo norm1
  std::vector<float> query_norm;  // [G][hidden]: v41 q_weight, demo norm2
  std::vector<float> conv;        // [G * hidden][kernel]; demo only
  std::vector<float> conv_norm;   // [G][hidden]; demo only
};

struct ModelWeights {
  Matrix embedding;               // [vocabulary][hidden]
  std::optional<Matrix> lm_head;  // none: tied to the embedding
  std::vector<float> final_norm;  // [hidden]
  std::vector<LayerWeights> layers;
  std::vector<EngramLayerWeights> engram;              // in the order of config.engram->layer_ids
  RowFormat row_format = RowFormat::kF8E4M3ScaleE8M0;  // of the tables' tensors
  uint64_t values_elsewhere = 0;                       // of the matrices, in other parts

  // Of the whole model, without embedding and lm_head; with the Engram fusion, without the tables.
  [[nodiscard]] uint64_t parameters_non_embedding() const;
};

// Reads every tensor the config asks for (BF16, F16 or F32), checks name, shape and dtype. Of the
// matrices that ranks divide it keeps the part's outputs (q, k, v, gate, up) or inputs (o, down);
// embedding, lm_head, norms and Engram fusion are whole. `config` is the whole model's.
// ERRORS: kNotFound (a tensor is missing), kMalformed (shape or dtype), kIo; each names file,
// tensor, expected and found. kResourceExhausted: not enough memory.
[[nodiscard]] Result<ModelWeights> LoadWeights(const std::filesystem::path& model_dir,
                                               const ModelConfig& config,
                                               const TensorPart& part = {});

}  // namespace engram
