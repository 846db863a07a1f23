#include "engram/hash/bucket_kernel.h"

#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

// Multiples of the prime and their neighbours are where a quotient goes wrong; and the ends.
std::vector<uint64_t> HardHashes(uint32_t prime) {
  constexpr uint64_t kEnd = uint64_t{1} << 63;
  std::vector<uint64_t> hashes = {0,        1,       2, prime - 1, prime, uint64_t{prime} + 1,
                                  kEnd - 1, kEnd - 2};
  std::mt19937_64 random(prime);
  for (int i = 0; i < 3000; ++i) {
    const uint64_t hash = random() >> (1 + random() % 40);
    const uint64_t multiple = hash - hash % prime;
    hashes.push_back(hash);
    hashes.push_back(multiple);
    if (multiple != 0) hashes.push_back(multiple - 1);
    hashes.push_back(multiple + prime < kEnd ? multiple + prime - 1 : multiple);
  }
  const uint64_t top = (kEnd - 1) - (kEnd - 1) % prime;
  hashes.push_back(top);
  hashes.push_back(top - 1);
  return hashes;
}

const std::vector<uint32_t> kPrimes = {
    2,        3,        5,        7,        1009,      8191,       16381,      16411,     646403,
    16000057, 16000889, 16777213, 67108859, 536870909, 2147483647, 2147483659, 4294967291};

TEST(BucketKernelTest, PortableKernelIsExactForEveryPrimeAndHash) {
  for (const uint32_t prime : kPrimes) {
    const std::vector<uint64_t> hashes = HardHashes(prime);
    std::vector<uint32_t> buckets(hashes.size());
    BucketsPortable(hashes.data(), hashes.size(), Divisor(prime), buckets.data());
    for (size_t i = 0; i < hashes.size(); ++i) {
      ASSERT_EQ(buckets[i], hashes[i] % prime) << hashes[i] << " mod " << prime;
    }
  }
}

TEST(BucketKernelTest, Avx512KernelEqualsThePortableOne) {
  if (!HasAvx512()) GTEST_SKIP() << "this processor has no AVX-512";
  int tried = 0;
  for (const uint32_t prime : kPrimes) {
    const Divisor divisor(prime);
    if (!divisor.fits_vector_kernel()) continue;
    ++tried;
    const std::vector<uint64_t> hashes = HardHashes(prime);
    for (const size_t count :
         {hashes.size(), size_t{0}, size_t{1}, size_t{7}, size_t{8}, size_t{15}}) {
      std::vector<uint32_t> expected(count + 1, 77);
      std::vector<uint32_t> buckets(count + 1, 77);
      BucketsPortable(hashes.data(), count, divisor, expected.data());
      BucketsAvx512(hashes.data(), count, divisor, buckets.data());
      ASSERT_EQ(buckets, expected) << prime;
    }
  }
  EXPECT_GE(tried, 7);
}

TEST(BucketKernelTest, VectorKernelsAreOnlyChosenWhereTheyAreExact) {
  EXPECT_EQ(ChooseBucketKernel(Divisor(8191)), &BucketsPortable);
  EXPECT_EQ(ChooseBucketKernel(Divisor(2147483659)), &BucketsPortable);
  EXPECT_EQ(ChooseBucketKernel(Divisor(16000057)), HasAvx512() ? &BucketsAvx512 : &BucketsPortable);
}

TEST(BucketKernelTest, NegativeHashIsFlooredAsInNumpy) {
  EXPECT_EQ(Divisor(7).FlooredRemainder(-15), 6u);
  EXPECT_EQ(Divisor(7).FlooredRemainder(-14), 0u);
  EXPECT_EQ(Divisor(7).FlooredRemainder(15), 1u);
  EXPECT_EQ(Divisor(4294967291).FlooredRemainder(-1), 4294967290u);
}

}  // namespace
}  // namespace engram
