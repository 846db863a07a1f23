#include "bench/v41_shape.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace engram::bench {

TableSpec V41Spec(uint64_t bytes, int64_t compressed_ids, uint32_t row_values) {
  TableSpec spec;
  spec.hash = {.variant = Variant::kV41,
               .max_ngram_size = 4,
               .head_count = 8,
               .base_sizes = {},
               .layer_ids = {1, 14},
               .compressed_vocab_size = compressed_ids,
               .pad_id = 2};
  spec.row_values = row_values;
  const uint64_t row_bytes = RowBytes(spec.row_format, spec.row_values);
  const uint64_t column_rows = std::max<uint64_t>(64, bytes / kV41RowsPerToken / row_bytes);
  spec.hash.base_sizes.assign(3, static_cast<int64_t>(column_rows));
  return spec;
}

std::vector<int32_t> IdentityCompression(int32_t vocabulary) {
  std::vector<int32_t> compression(static_cast<size_t>(vocabulary));
  std::iota(compression.begin(), compression.end(), 0);
  return compression;
}

Status CheckBatchRows(uint32_t rows, uint32_t rows_max, uint32_t rows_per_token) {
  if (rows >= rows_per_token && rows % rows_per_token == 0 && rows <= rows_max) return {};
  return {StatusCode::kInvalidArgument,
          "--rows " + std::to_string(rows) + ": a batch is whole tokens of " +
              std::to_string(rows_per_token) + " rows each, from " +
              std::to_string(rows_per_token) + " to " +
              std::to_string(rows_max / rows_per_token * rows_per_token)};
}

}  // namespace engram::bench
