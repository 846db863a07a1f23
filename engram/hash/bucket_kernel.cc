#include "engram/hash/bucket_kernel.h"

#include <bit>

#include "engram/base/check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace engram {

Divisor::Divisor(uint32_t prime) : prime_(prime) {
  ENGRAM_CHECK(prime >= 2);
  const int log2_up = std::bit_width(prime - 1);
  magic_ = static_cast<uint64_t>(((Uint128{1} << (63 + log2_up)) + prime - 1) / prime);
  shift_ = static_cast<uint32_t>(log2_up - 1);
  // Four roundings (the hash, this inverse twice, their product) raise a quotient by less than a
  // factor of 1 + 2^-50; taking that off first keeps the estimate at or below the true quotient.
  inverse_ = (1.0 / static_cast<double>(prime)) * (1.0 - 0x1p-50);
}

void BucketsPortable(const uint64_t* hashes, size_t count, const Divisor& divisor,
                     uint32_t* buckets) {
  const Divisor local = divisor;  // In registers: `buckets` could otherwise alias it.
  for (size_t i = 0; i < count; ++i) buckets[i] = local.Remainder(hashes[i]);
}

#if defined(__x86_64__)

bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

// The quotient in doubles: it is < 2^49 for a prime >= 2^14, so the estimate is less than 1 below
// the true quotient and the remainder less than 2 * prime < 2^32: one conditional subtraction,
// which an unsigned minimum does (remainder - prime wraps to a large number where it must not be).
__attribute__((target("avx512f,avx512dq,avx512vl"))) void BucketsAvx512(const uint64_t* hashes,
                                                                        size_t count,
                                                                        const Divisor& divisor,
                                                                        uint32_t* buckets) {
  const __m512d inverse = _mm512_set1_pd(divisor.inverse());
  const __m512i prime = _mm512_set1_epi64(divisor.prime());
  const __m256i prime_half = _mm256_set1_epi32(static_cast<int>(divisor.prime()));
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m512i hash = _mm512_loadu_si512(hashes + i);
    const __m512i quotient = _mm512_cvttpd_epi64(_mm512_mul_pd(_mm512_cvtepi64_pd(hash), inverse));
    const __m512i product = _mm512_mul_epu32(quotient, prime);
    const __m256i remainder = _mm512_cvtepi64_epi32(_mm512_sub_epi64(hash, product));
    const __m256i bucket = _mm256_min_epu32(remainder, _mm256_sub_epi32(remainder, prime_half));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(buckets + i), bucket);
  }
  for (; i < count; ++i) buckets[i] = divisor.Remainder(hashes[i]);
}

#else

bool HasAvx512() { return false; }

void BucketsAvx512(const uint64_t* hashes, size_t count, const Divisor& divisor,
                   uint32_t* buckets) {
  BucketsPortable(hashes, count, divisor, buckets);
}

#endif

BucketKernel ChooseBucketKernel(const Divisor& divisor) {
  static const bool has_avx512 = HasAvx512();
  return has_avx512 && divisor.fits_vector_kernel() ? BucketsAvx512 : BucketsPortable;
}

}  // namespace engram
