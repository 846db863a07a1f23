// The part of numpy.random.default_rng that the multipliers need, bit-exact: SeedSequence, PCG64
// (XSL-RR 128/64) and Generator.integers for a range wider than 32 bits. The streams are stable
// across numpy versions for these calls; docs/formats/row_ids.md spells the steps out.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace engram {

// numpy.random.SeedSequence(entropy).generate_state(4, uint64).
//   words  the entropy as little-endian 32-bit words; 0 is one word 0
[[nodiscard]] std::array<uint64_t, 4> SeedSequenceState(std::span<const uint32_t> words);

// numpy.random.default_rng(seed). Thread-compatible.
class NumpyGenerator {
 public:
  explicit NumpyGenerator(uint64_t seed);

  // The bit generator's next 64 bits.
  [[nodiscard]] uint64_t Next64();
  // One element of integers(0, bound, dtype=int64): uniform in [0, bound).
  // Precondition: 2^32 < bound <= 2^63 (below that numpy draws 32-bit numbers).
  [[nodiscard]] uint64_t Below(uint64_t bound);

 private:
  __extension__ typedef unsigned __int128 Uint128;
  void Step();

  Uint128 state_ = 0;
  Uint128 increment_ = 0;
};

}  // namespace engram
