#include "model_worker/tensor_part.h"

#include <algorithm>
#include <string>

namespace engram {

uint32_t SumBlocks(const ModelConfig& config) {
  uint32_t blocks = kTensorPartsMax;
  while (config.kv_head_count % static_cast<int32_t>(blocks) != 0 ||
         config.intermediate_size % static_cast<int32_t>(blocks) != 0) {
    blocks /= 2;
  }
  return blocks;
}

Status CheckTensorPart(const ModelConfig& config, const TensorPart& part) {
  const uint32_t blocks = SumBlocks(config);
  if (part.count != 0 && blocks % part.count == 0 && part.rank < part.count) return {};
  std::string allowed = "1";
  for (uint32_t count = 2; count <= blocks; count *= 2) allowed += ", " + std::to_string(count);
  return {StatusCode::kInvalidArgument,
          std::to_string(part.count) + " ranks cannot share this model: allowed are " + allowed +
              " (powers of two that divide num_key_value_heads = " +
              std::to_string(config.kv_head_count) +
              " and intermediate_size = " + std::to_string(config.intermediate_size) +
              ", at most " + std::to_string(kTensorPartsMax) + "); give mpirun -np one of these"};
}

ModelConfig PartConfig(const ModelConfig& config, const TensorPart& part) {
  ModelConfig of_part = config;
  const auto count = static_cast<int32_t>(part.count);
  of_part.head_count /= count;
  of_part.kv_head_count /= count;
  of_part.intermediate_size /= count;
  return of_part;
}

IndexRange VocabularyPart(int32_t vocabulary_size, const TensorPart& part) {
  const int64_t each = (int64_t{vocabulary_size} + part.count - 1) / part.count;
  const int64_t begin = std::min<int64_t>(part.rank * each, vocabulary_size);
  return {begin, std::min<int64_t>(begin + each, vocabulary_size)};
}

}  // namespace engram
