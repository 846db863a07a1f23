// The next token out of a row of logits, by the rules of model_worker/sampling.h.
//
// Weights are whole numbers (2^40 for the likeliest token), so their sums do not depend on the
// order of the threads: the same logits and draw give the same token in every run. A weight is
// rounded to 2^-40 and computed in fp32, where the CPU's sampler has fp64: the two may differ where
// a draw falls within 1e-6 of the border between two tokens.
#include <cfloat>

#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/launch.cuh"

namespace engram::gpu {
namespace {

using Mass = unsigned long long;  // what atomicAdd takes

constexpr uint32_t kWarps = 16;
constexpr uint32_t kThreads = kWarps * 32;
constexpr uint32_t kDigits = 256;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr float kOne = 1099511627776.0f;  // 2^40

// What one row is drawn from.
struct Row {
  const float* logits;
  uint32_t count;
  float temperature;
  float highest, lowest;  // of the finite ones
  float digits_per_logit;

  __device__ Mass WeightOf(float logit) const {
    return __float2ull_rn(expf((logit - highest) / temperature) * kOne);
  }
  // Never falls as the logit falls; spreads what there is over all digits.
  __device__ uint32_t Distance(float logit) const {
    const float distance = (highest - logit) * digits_per_logit;
    return distance < kDigits - 1 ? static_cast<uint32_t>(distance) : kDigits - 1;
  }
};

__device__ bool IsFinite(float logit) { return fabsf(logit) <= FLT_MAX; }

// Calls each(i, logit) for i = begin, begin + step, ... below end, and with NaN for some after it.
// Many logits are asked for at a time. Left to itself the compiler has a thread wait for each, some
// 300 times half a microsecond for a vocabulary of 151,936.
template <typename Each>
__device__ void ForEach(const float* logits, uint32_t begin, uint32_t end, uint32_t step,
                        const Each& each) {
  constexpr uint32_t kAhead = 16;
  for (uint32_t i = begin; i < end; i += kAhead * step) {
    float ahead[kAhead];
#pragma unroll
    for (uint32_t a = 0; a < kAhead; ++a) {
      ahead[a] = i + a * step < end ? logits[i + a * step] : NAN;
    }
#pragma unroll
    for (uint32_t a = 0; a < kAhead; ++a) each(i + a * step, ahead[a]);
  }
}

// Falls as the logit rises, so that likelier tokens come first; 0 and -0 are one.
__device__ uint32_t KeyOf(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return (bits & 0x80000000u) != 0 ? bits : ~(bits | 0x80000000u);
}

// The likeliest tokens, ranked by logit and then by id: all whose key is below `key`, and the first
// `ties` of those that have it.
struct Kept {
  uint32_t key = 0xffffffffu;  // no finite logit's
  uint32_t ties = 0;
  Mass tie_mass = 0;  // of each
  Mass mass = 0;      // of all that are kept
};

__device__ Mass WarpSum(Mass value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// The first id of the highest logit, and the lowest finite one. All threads of the block get them.
__device__ uint32_t FindRange(Row* row) {
  __shared__ float highest[kWarps], lowest[kWarps];
  __shared__ uint32_t ids[kWarps];
  const uint32_t warp = threadIdx.x / 32;
  float high = -INFINITY, low = INFINITY;
  uint32_t id = 0;
  ForEach(row->logits, threadIdx.x, row->count, kThreads, [&](uint32_t i, float logit) {
    if (logit > high) {
      high = logit;
      id = i;
    }
    if (logit < low && IsFinite(logit)) low = logit;
  });
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, high, step);
    const uint32_t other_id = __shfl_xor_sync(kAllLanes, id, step);
    if (other > high || (other == high && other_id < id)) {
      high = other;
      id = other_id;
    }
    low = fminf(low, __shfl_xor_sync(kAllLanes, low, step));
  }
  if (threadIdx.x % 32 == 0) {
    highest[warp] = high;
    lowest[warp] = low;
    ids[warp] = id;
  }
  __syncthreads();
  high = highest[0];
  id = ids[0];
  low = lowest[0];
  for (uint32_t w = 1; w < kWarps; ++w) {
    if (highest[w] > high || (highest[w] == high && ids[w] < id)) {
      high = highest[w];
      id = ids[w];
    }
    low = fminf(low, lowest[w]);
  }
  row->highest = high;
  row->lowest = low;
  row->digits_per_logit = high > low ? static_cast<float>(kDigits - 1) / (high - low) : 0.0f;
  return id;
}

// How often each digit comes among the tokens that are still looked at, and their mass.
struct Histogram {
  uint32_t counts[kDigits];
  Mass masses[kDigits];
};

// The first digit at which `wanted` is reached, added up from digit 0; kDigits if it is not.
// `before` grows by the digits before it.
__device__ uint32_t FirstReaching(const Histogram& histogram, bool by_mass, Mass wanted,
                                  Mass* count_before, Mass* mass_before) {
  for (uint32_t digit = 0; digit < kDigits; ++digit) {
    const Mass count = *count_before + histogram.counts[digit];
    const Mass mass = *mass_before + histogram.masses[digit];
    if ((by_mass ? mass : count) >= wanted) return digit;
    *count_before = count;
    *mass_before = mass;
  }
  return kDigits;
}

// Keeps the fewest of the likeliest tokens that are `wanted` many, or have that mass; all where
// there are not so many. First by distance from the highest, which spreads them over the digits,
// then, within the one distance, by the bytes of their keys.
__device__ void Keep(const Row& row, bool by_mass, Mass wanted, Kept* kept) {
  __shared__ Histogram histogram;
  __shared__ uint32_t found;
  __shared__ Mass found_count, found_mass;
  uint32_t distance = 0, key = 0;
  Mass count_before = 0, mass_before = 0;
  for (int shift = 32; shift >= 0; shift -= 8) {
    for (uint32_t digit = threadIdx.x; digit < kDigits; digit += kThreads) {
      histogram.counts[digit] = 0;
      histogram.masses[digit] = 0;
    }
    __syncthreads();
    ForEach(row.logits, threadIdx.x, row.count, kThreads, [&](uint32_t /*i*/, float logit) {
      if (!IsFinite(logit)) return;
      uint32_t digit = row.Distance(logit);
      if (shift < 32) {
        if (digit != distance) return;
        const uint32_t own = KeyOf(logit);
        if (shift < 24 && own >> (shift + 8) != key >> (shift + 8)) return;
        digit = own >> shift & 0xff;
      }
      atomicAdd(&histogram.counts[digit], 1u);
      atomicAdd(&histogram.masses[digit], row.WeightOf(logit));
    });
    __syncthreads();
    if (threadIdx.x == 0) {
      found = FirstReaching(histogram, by_mass, wanted, &count_before, &mass_before);
      found_count = count_before;
      found_mass = mass_before;
    }
    __syncthreads();
    if (found == kDigits) return;
    count_before = found_count;
    mass_before = found_mass;
    if (shift == 32) {
      distance = found;
    } else {
      key |= found << shift;
    }
  }
  // All that are left have one key, so one logit.
  const uint32_t ties = histogram.counts[key & 0xff];
  const Mass tie_mass = histogram.masses[key & 0xff] / ties;
  kept->key = key;
  kept->tie_mass = tie_mass;
  kept->ties = static_cast<uint32_t>(by_mass ? (wanted - mass_before + tie_mass - 1) / tie_mass
                                             : wanted - count_before);
  kept->mass = mass_before + kept->ties * tie_mass;
  __syncthreads();  // the histogram is used again
}

__device__ Mass TotalMass(const Row& row) {
  __shared__ Mass masses[kWarps];
  Mass mass = 0;
  ForEach(row.logits, threadIdx.x, row.count, kThreads, [&](uint32_t /*i*/, float logit) {
    if (IsFinite(logit)) mass += row.WeightOf(logit);
  });
  mass = WarpSum(mass);
  if (threadIdx.x % 32 == 0) masses[threadIdx.x / 32] = mass;
  __syncthreads();
  mass = 0;
  for (uint32_t w = 0; w < kWarps; ++w) mass += masses[w];
  return mass;
}

// The kept token, in the order of ids, in whose share of the mass `target` lies. Each warp adds up
// its part of the ids; the part with the target is then cut among the warps in turn.
// Precondition: target < kept.mass.
__device__ uint32_t TokenAt(const Row& row, const Kept& kept, Mass target) {
  __shared__ Mass masses[kWarps];
  __shared__ uint32_t ties[kWarps];
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  uint32_t begin = 0, end = row.count, ties_left = kept.ties;
  while (end - begin > 1) {
    const uint32_t part = (end - begin + kWarps - 1) / kWarps;
    const uint32_t part_begin = min(begin + warp * part, end);
    const uint32_t part_end = min(part_begin + part, end);
    Mass mass = 0, tie_count = 0;
    ForEach(row.logits, part_begin + lane, part_end, 32, [&](uint32_t /*i*/, float logit) {
      if (!IsFinite(logit)) return;
      const uint32_t key = KeyOf(logit);
      if (key < kept.key) mass += row.WeightOf(logit);
      if (key == kept.key) ++tie_count;
    });
    mass = WarpSum(mass);
    tie_count = WarpSum(tie_count);
    if (lane == 0) {
      masses[warp] = mass;
      ties[warp] = static_cast<uint32_t>(tie_count);
    }
    __syncthreads();
    uint32_t w = 0;
    for (; w < kWarps - 1; ++w) {
      const uint32_t own_ties = min(ties[w], ties_left);
      const Mass own = masses[w] + own_ties * kept.tie_mass;
      if (target < own) break;
      target -= own;
      ties_left -= own_ties;
    }
    begin = min(begin + w * part, end);
    end = min(begin + part, end);
    __syncthreads();
  }
  return begin;
}

// A block: one row.
__global__ void __launch_bounds__(kThreads)
    SampleKernel(const float* logits, uint32_t stride, uint32_t vocabulary, const DeviceDraw* draws,
                 int32_t* tokens) {
  const DeviceDraw draw = draws[blockIdx.x];
  Row row{logits + size_t{blockIdx.x} * stride, vocabulary, draw.temperature, 0, 0, 0};
  const uint32_t likeliest = FindRange(&row);
  int32_t token = static_cast<int32_t>(likeliest);
  if (!(fabsf(row.highest) <= FLT_MAX)) {
    token = -1;
  } else if (draw.temperature > 0 && draw.top_k != 1) {
    Kept kept;
    kept.mass = TotalMass(row);
    if (draw.top_k > 0) Keep(row, /*by_mass=*/false, draw.top_k, &kept);
    if (draw.top_p < 1) {
      const double wanted = ceil(draw.top_p * static_cast<double>(kept.mass));
      Keep(row, /*by_mass=*/true, wanted < 1 ? 1 : static_cast<Mass>(wanted), &kept);
    }
    const Mass target = static_cast<Mass>(draw.uniform * static_cast<double>(kept.mass));
    token = static_cast<int32_t>(TokenAt(row, kept, min(target, kept.mass - 1)));
  }
  if (threadIdx.x == 0) tokens[blockIdx.x] = token;
}

}  // namespace

cudaError_t LaunchSample(const float* logits, uint32_t stride, uint32_t vocabulary,
                         const DeviceDraw* draws, uint32_t rows, int32_t* tokens,
                         cudaStream_t stream) {
  return Launch(SampleKernel, rows, kThreads, stream, logits, stride, vocabulary, draws, tokens);
}

}  // namespace engram::gpu
