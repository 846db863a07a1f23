// How large launches are: row buckets, splits of decode attention, threads of a row. Host logic, no
// CUDA.
#pragma once

#include <cstdint>

namespace engram::gpu {

// Rows that a step of `rows` tokens is padded to. Few different numbers, so that each has its
// matrix product plans and its graphs; never more than twice the rows, and at most an eighth more
// from 128 on.
[[nodiscard]] uint32_t RowBucket(uint32_t rows);

// How decode attention cuts a sequence: `count` parts of `tokens` positions each, the last ones
// shorter or empty. Both are powers of two, so that growing sequences meet few different launches.
struct DecodeSplits {
  uint32_t count = 1;
  uint32_t tokens = 0;
  friend bool operator==(const DecodeSplits&, const DecodeSplits&) = default;
};

// Positions of one part at least: 64 KiB of keys and values of a head of 128.
inline constexpr uint32_t kSplitTokensMin = 128;
// As many parts as fill the GPU evenly, no more than the longest sequence has of kSplitTokensMin.
[[nodiscard]] DecodeSplits ChooseDecodeSplits(uint32_t sequences, uint32_t kv_heads,
                                              uint32_t length_max);

// The most `sequences * count` that ChooseDecodeSplits gives for up to sequences_max: how many
// partial results must have room.
[[nodiscard]] uint64_t DecodePartialsMax(uint32_t sequences_max, uint32_t kv_heads,
                                         uint32_t length_max);

// The head size that an attention kernel is compiled for: 32, 64 or 128; 0 = there is none.
[[nodiscard]] uint32_t PaddedHeadDim(uint32_t head_dim);

// Threads (a multiple of 32, 128 to 512) of a block that walks `units` of one row, with the fewest
// idle in the last round.
[[nodiscard]] uint32_t RowThreads(uint32_t units);

}  // namespace engram::gpu
