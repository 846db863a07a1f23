// Tables of the V4.1 shape, as every benchmark of rows uses them: two layers of 24 columns.
#pragma once

#include <cstdint>
#include <vector>

#include "engram/base/status.h"
#include "engram/table/table_layout.h"

namespace engram::bench {

inline constexpr int32_t kV41Layers = 2;
inline constexpr uint32_t kV41RowsPerToken = 48;
inline constexpr int32_t kV41CompressedIds = 99092;
inline constexpr uint32_t kV41RowValues = 256;  // a row of 264 bytes

// With fewer rows than the released ones.
//   bytes           of all tables, about
//   compressed_ids  how many there are
//   row_values      of a row: one byte each, and a scale for every 32
[[nodiscard]] TableSpec V41Spec(uint64_t bytes, int64_t compressed_ids, uint32_t row_values);

// [vocabulary] token id -> compressed id, where each is its own.
[[nodiscard]] std::vector<int32_t> IdentityCompression(int32_t vocabulary);

// What --rows takes. ERRORS: kInvalidArgument unless it is whole tokens, one at least.
[[nodiscard]] Status CheckBatchRows(uint32_t rows, uint32_t rows_max,
                                    uint32_t rows_per_token = kV41RowsPerToken);

}  // namespace engram::bench
