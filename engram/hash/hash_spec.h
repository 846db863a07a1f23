// What fixes the row ids of a model: everything the n-gram hash depends on, but the tables' bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "engram/base/status.h"

namespace engram {

// The two published hash rules (docs/formats/row_ids.md). They differ in look-back and seeds only.
enum class Variant : uint8_t {
  kDemo = 1,  // the paper's public module
  kV41 = 2,   // DeepSeek-V4.1-Flash
};

struct HashSpec {
  Variant variant = Variant::kV41;
  int32_t max_ngram_size = 0;         // N; orders are 2..N
  int32_t head_count = 0;             // K; columns per layer = (N - 1) * K
  std::vector<int64_t> base_sizes;    // [N - 1] table size asked per order, before primes
  std::vector<int32_t> layer_ids;     // [layers] the config's own numbers, in its order
  int64_t compressed_vocab_size = 0;  // V
  int64_t pad_id = 0;                 // p, already compressed
  uint64_t seed = 0;                  // v41: 0

  [[nodiscard]] int32_t column_count() const { return (max_ngram_size - 1) * head_count; }
  friend bool operator==(const HashSpec&, const HashSpec&) = default;
};

inline constexpr int32_t kNgramSizeMax = 8;
inline constexpr int32_t kHeadCountMax = 64;
inline constexpr int32_t kColumnCountMax = 256;
inline constexpr int32_t kEngramLayersMax = 64;
// A column's rows are indexed by 32 bits, so that a bucket is one uint32_t everywhere.
inline constexpr int64_t kColumnRowsMax = (int64_t{1} << 32) - 1;
// Below it every multiplier is drawn from more than 32 bits, the one way numpy draws that we
// follow.
inline constexpr int64_t kCompressedVocabMax = int64_t{1} << 28;

// ERRORS: kInvalidArgument naming the field, what was found and what is allowed.
[[nodiscard]] Status ValidateHashSpec(const HashSpec& spec);

// The prime size of every column: [layers][columns], ENGRAM section 3. One set of used primes over
// all layers. Precondition: ValidateHashSpec(spec).ok().
// ERRORS: kInvalidArgument if a prime would pass kColumnRowsMax.
[[nodiscard]] Result<std::vector<std::vector<uint32_t>>> ColumnSizes(const HashSpec& spec);

// The odd multipliers of one layer: [max_ngram_size], index = look-back distance. Section 2.
[[nodiscard]] std::vector<uint64_t> Multipliers(const HashSpec& spec, int32_t layer_id);

}  // namespace engram
