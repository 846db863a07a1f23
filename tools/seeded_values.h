// Seeded values for synthetic tensors, fast enough to be bound by the disk. A value depends on seed
// and place only, not on how the caller cuts a tensor into blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace engram {

// A tensor's own stream.
[[nodiscard]] uint64_t TensorSeed(uint64_t seed, std::string_view tensor_name);

// The stream's word number `counter` (splitmix64).
[[nodiscard]] inline uint64_t SeededWord(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Values are made in groups from one word each: blocks start at a multiple of these.
inline constexpr size_t kNormalsPerWord = 4;
inline constexpr size_t kE4M3PerWord = 5;
inline constexpr size_t kScalesPerWord = 8;

// Thread-safe. `first` is the place in the tensor of values[0].
// Normal with mean and standard deviation. Precondition: first % kNormalsPerWord == 0.
void FillNormal(uint64_t seed, uint64_t first, float mean, float deviation,
                std::span<float> values);
// E4M3FN of a standard normal; never NaN. Precondition: first % kE4M3PerWord == 0.
void FillE4M3(uint64_t seed, uint64_t first, std::span<std::byte> values);
// UE8M0 scales 2^-1 to 2^2, equally often. Precondition: first % kScalesPerWord == 0.
void FillScales(uint64_t seed, uint64_t first, std::span<std::byte> values);

}  // namespace engram
