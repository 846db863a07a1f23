// hash mod prime for a run of hashes: the inner loop of the hash. All kernels are bit-exact.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engram {

// A prime and its reciprocals.
class Divisor {
 public:
  // Precondition: 2 <= prime.
  explicit Divisor(uint32_t prime);

  [[nodiscard]] uint32_t prime() const { return prime_; }

  // hash mod prime, exact for every hash < 2^63 (Granlund and Montgomery, 1994, theorem 4.2: with
  // l = ceil(log2 prime) and magic = ceil(2^(63 + l) / prime), which is < 2^64, the quotient is
  // floor(magic * hash / 2^(63 + l))).
  [[nodiscard]] uint32_t Remainder(uint64_t hash) const {
    const uint64_t quotient = static_cast<uint64_t>((Uint128{magic_} * hash) >> 64) >> shift_;
    // The remainder is < 2^32, so the low halves are enough.
    return static_cast<uint32_t>(hash) - static_cast<uint32_t>(quotient) * prime_;
  }

  // The remainder of a signed hash, floored as in numpy: -15 mod 7 = 6.
  [[nodiscard]] uint32_t FlooredRemainder(int64_t hash) const {
    const int64_t remainder = hash % static_cast<int64_t>(prime_);
    return static_cast<uint32_t>(remainder < 0 ? remainder + prime_ : remainder);
  }

  // Slightly less than 1 / prime, for vector kernels in doubles.
  [[nodiscard]] double inverse() const { return inverse_; }
  // Whether the vector kernels are exact for this prime.
  [[nodiscard]] bool fits_vector_kernel() const {
    return prime_ >= kVectorPrimeMin && prime_ < kVectorPrimeEnd;
  }

 private:
  __extension__ typedef unsigned __int128 Uint128;
  static constexpr uint32_t kVectorPrimeMin = uint32_t{1} << 14;
  static constexpr uint32_t kVectorPrimeEnd = uint32_t{1} << 31;

  uint64_t magic_;
  double inverse_;
  uint32_t prime_;
  uint32_t shift_;
};

// buckets[i] = hashes[i] mod divisor, i < count. Every hash is < 2^63.
using BucketKernel = void (*)(const uint64_t* hashes, size_t count, const Divisor& divisor,
                              uint32_t* buckets);

void BucketsPortable(const uint64_t* hashes, size_t count, const Divisor& divisor,
                     uint32_t* buckets);
// Precondition: the processor has AVX-512 F, DQ and VL, and divisor.fits_vector_kernel().
// Falls back to the portable kernel where this was not built for x86-64.
void BucketsAvx512(const uint64_t* hashes, size_t count, const Divisor& divisor, uint32_t* buckets);
[[nodiscard]] bool HasAvx512();

// The fastest kernel that this processor has and that is exact for `divisor`.
[[nodiscard]] BucketKernel ChooseBucketKernel(const Divisor& divisor);

}  // namespace engram
