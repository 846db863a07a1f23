#include "engram/hash/numpy_random.h"

#include <bit>
#include <cstddef>

#include "engram/base/check.h"

namespace engram {
namespace {

constexpr size_t kPoolWords = 4;

// SeedSequence's hash with its running constant.
class RunningHash {
 public:
  RunningHash(uint32_t start, uint32_t multiplier) : constant_(start), multiplier_(multiplier) {}

  uint32_t operator()(uint32_t value) {
    value ^= constant_;
    constant_ *= multiplier_;
    value *= constant_;
    return value ^ (value >> 16);
  }

 private:
  uint32_t constant_;
  uint32_t multiplier_;
};

uint32_t Mix(uint32_t x, uint32_t y) {
  const uint32_t result = 0xca01f9ddU * x - 0x4973f715U * y;
  return result ^ (result >> 16);
}

}  // namespace

std::array<uint64_t, 4> SeedSequenceState(std::span<const uint32_t> words) {
  std::array<uint32_t, kPoolWords> pool{};
  RunningHash hash(0x43b0d7e5U, 0x931e8875U);
  for (size_t i = 0; i < kPoolWords; ++i) pool[i] = hash(i < words.size() ? words[i] : 0);
  for (size_t source = 0; source < kPoolWords; ++source) {
    for (size_t target = 0; target < kPoolWords; ++target) {
      if (source != target) pool[target] = Mix(pool[target], hash(pool[source]));
    }
  }
  for (size_t i = kPoolWords; i < words.size(); ++i) {
    for (uint32_t& target : pool) target = Mix(target, hash(words[i]));
  }

  RunningHash output_hash(0x8b51f9ddU, 0x58f38dedU);
  std::array<uint64_t, 4> state{};
  for (size_t i = 0; i < 2 * state.size(); ++i) {
    const uint64_t word = output_hash(pool[i % kPoolWords]);
    state[i / 2] |= word << (32 * (i % 2));
  }
  return state;
}

NumpyGenerator::NumpyGenerator(uint64_t seed) {
  const std::array<uint32_t, 2> words = {static_cast<uint32_t>(seed),
                                         static_cast<uint32_t>(seed >> 32)};
  const auto state = SeedSequenceState(std::span(words).first(words[1] == 0 ? 1 : 2));
  increment_ = (((Uint128{state[2]} << 64) | state[3]) << 1) | 1;
  Step();
  state_ += (Uint128{state[0]} << 64) | state[1];
  Step();
}

void NumpyGenerator::Step() {
  constexpr Uint128 kMultiplier = (Uint128{0x2360ED051FC65DA4} << 64) | 0x4385DF649FCCF645;
  state_ = state_ * kMultiplier + increment_;
}

uint64_t NumpyGenerator::Next64() {
  Step();
  const auto high = static_cast<uint64_t>(state_ >> 64);
  return std::rotr(high ^ static_cast<uint64_t>(state_), static_cast<int>(high >> 58));
}

uint64_t NumpyGenerator::Below(uint64_t bound) {
  ENGRAM_CHECK(bound > (uint64_t{1} << 32));
  // Lemire's method, as numpy applies it to 64-bit ranges.
  const uint64_t threshold = (0 - bound) % bound;
  while (true) {
    const Uint128 product = Uint128{Next64()} * bound;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

}  // namespace engram
