#include "bench/batch_rows.h"

namespace engram::bench {

const std::vector<uint64_t>& BatchRows::Next(uint32_t tokens) {
  const TokenRun run = tokens_->Next(tokens);
  addresses_.clear();
  buckets_.resize(size_t{tokens} * static_cast<uint32_t>(layout_->column_count()));
  for (int32_t layer = 0; layer < layout_->layer_count(); ++layer) {
    hasher_->Hash(layer, run, buckets_.data(), tokens);
    for (uint32_t token = 0; token < tokens; ++token) {
      for (int32_t column = 0; column < layout_->column_count(); ++column) {
        const uint32_t bucket = buckets_[static_cast<size_t>(column) * tokens + token];
        addresses_.push_back(layout_->Address(layer, column, bucket).value());
      }
    }
  }
  return addresses_;
}

}  // namespace engram::bench
