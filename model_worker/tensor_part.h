// Which part of a model a rank computes, where several compute it together (Megatron's split):
// attention by KV heads, the MLP by its width, the output matrix by vocabulary; the rest on every
// rank (docs/decisions/0034-tensor-parallelism.md).
#pragma once

#include <cstdint>

#include "engram/base/status.h"
#include "model_worker/model_config.h"

namespace engram {

// Ranks of one model at most: as many GPUs as a host has.
inline constexpr uint32_t kTensorPartsMax = 8;

struct TensorPart {
  uint32_t rank = 0;
  uint32_t count = 1;
};

// A half-open range.
struct IndexRange {
  int64_t begin = 0;
  int64_t end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
};

// The sums that cross ranks (attention's and the MLP's output) are made of so many partial sums,
// added in a fixed tree, whatever the number of ranks, one included: it depends on the model alone.
// The largest power of two up to kTensorPartsMax that divides num_key_value_heads and
// intermediate_size; so also the most ranks.
[[nodiscard]] uint32_t SumBlocks(const ModelConfig& config);

// ERRORS: kInvalidArgument naming the numbers of ranks that the model allows.
[[nodiscard]] Status CheckTensorPart(const ModelConfig& config, const TensorPart& part);

// The config with a part's heads and MLP width. Precondition: CheckTensorPart.
[[nodiscard]] ModelConfig PartConfig(const ModelConfig& config, const TensorPart& part);

// The part's rows of the output matrix: all vocabularies divide, the last parts have fewer.
[[nodiscard]] IndexRange VocabularyPart(int32_t vocabulary_size, const TensorPart& part);

}  // namespace engram
