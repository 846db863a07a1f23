#include "model_worker/cuda/launch_shape.h"

#include <algorithm>
#include <bit>

namespace engram::gpu {
namespace {

constexpr uint32_t RoundUp(uint32_t n, uint32_t unit) { return (n + unit - 1) / unit * unit; }

// An H100's and H200's; on another GPU the choice is only less even.
constexpr uint64_t kMultiprocessors = 132;
constexpr uint64_t kBlocksMax = 8 * kMultiprocessors;

// How busy `blocks` of decode attention keep the GPU's memory, up to 1. Measured on an H200: two
// blocks to each multiprocessor are enough, three fit, and a few blocks in a second round cost as
// much as a full one.
double Evenness(uint64_t blocks) {
  const uint64_t enough = 2 * kMultiprocessors, round = 3 * kMultiprocessors;
  if (blocks <= enough) return static_cast<double>(blocks) / static_cast<double>(enough);
  const uint64_t rounds = (blocks + round - 1) / round;
  return static_cast<double>(blocks) / static_cast<double>(rounds * round);
}

}  // namespace

uint32_t RowBucket(uint32_t rows) {
  if (rows <= 16) return std::bit_ceil(std::max(rows, 1u));
  if (rows <= 128) return RoundUp(rows, 16);
  if (rows <= 512) return RoundUp(rows, 64);
  return RoundUp(rows, 256);
}

DecodeSplits ChooseDecodeSplits(uint32_t sequences, uint32_t kv_heads, uint32_t length_max) {
  const uint64_t blocks = std::max<uint64_t>(1, uint64_t{sequences} * kv_heads);
  const uint32_t length = std::max(std::bit_ceil(std::max(length_max, 1u)), kSplitTokensMin);
  DecodeSplits splits{1, length};
  double best = Evenness(blocks);
  for (uint32_t count = 2; count <= length / kSplitTokensMin && blocks * count <= kBlocksMax;
       count *= 2) {
    // Each doubling costs a little: more to merge.
    const double evenness = Evenness(blocks * count) * (1 - 0.02 * std::bit_width(count - 1));
    if (evenness <= best) continue;
    best = evenness;
    splits = {count, length / count};
  }
  return splits;
}

uint64_t DecodePartialsMax(uint32_t sequences_max, uint32_t kv_heads, uint32_t length_max) {
  uint64_t most = 0;
  for (uint32_t sequences = 1; sequences <= sequences_max; ++sequences) {
    const uint32_t rows = RowBucket(sequences);
    most = std::max(most, uint64_t{rows} * ChooseDecodeSplits(rows, kv_heads, length_max).count);
    // Steps with prefill too take the sequences as they are.
    most = std::max(
        most, uint64_t{sequences} * ChooseDecodeSplits(sequences, kv_heads, length_max).count);
  }
  return most;
}

uint32_t PaddedHeadDim(uint32_t head_dim) {
  for (const uint32_t padded : {32u, 64u, 128u}) {
    if (head_dim <= padded) return padded;
  }
  return 0;
}

uint32_t RowThreads(uint32_t units) {
  uint32_t best = 128;
  uint32_t least_idle = RoundUp(units, best) - units;
  for (uint32_t threads = 160; threads <= 512; threads += 32) {
    const uint32_t idle = RoundUp(units, threads) - units;
    // Of equals the larger: fewer rounds.
    if (idle <= least_idle) {
      best = threads;
      least_idle = idle;
    }
  }
  return best;
}

}  // namespace engram::gpu
