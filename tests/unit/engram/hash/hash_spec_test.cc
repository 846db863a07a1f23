#include "engram/hash/hash_spec.h"

#include <algorithm>
#include <numeric>
#include <string>

#include <gmock/gmock.h>

#include "engram/hash/primes.h"

namespace engram {
namespace {

using testing::HasSubstr;

HashSpec V41Spec() {
  return HashSpec{.variant = Variant::kV41,
                  .max_ngram_size = 4,
                  .head_count = 8,
                  .base_sizes = {16000000, 16000000, 16000000},
                  .layer_ids = {1, 14},
                  .compressed_vocab_size = 99092,
                  .pad_id = 2,
                  .seed = 0};
}

void ExpectRefused(const HashSpec& spec, const std::string& named) {
  const Status status = ValidateHashSpec(spec);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr(named));
}

TEST(HashSpecTest, ReleasedModelsSpecIsValid) { EXPECT_TRUE(ValidateHashSpec(V41Spec()).ok()); }

TEST(HashSpecTest, EveryBadFieldIsRefusedByName) {
  auto with = [](auto change) {
    HashSpec spec = V41Spec();
    change(spec);
    return spec;
  };
  ExpectRefused(with([](HashSpec& s) { s.variant = static_cast<Variant>(7); }), "variant is 7");
  ExpectRefused(with([](HashSpec& s) { s.max_ngram_size = 1; }), "max_ngram_size is 1");
  ExpectRefused(with([](HashSpec& s) { s.max_ngram_size = 9; }), "max_ngram_size is 9");
  ExpectRefused(with([](HashSpec& s) { s.head_count = 0; }), "head_count is 0");
  ExpectRefused(with([](HashSpec& s) { s.head_count = 65; }), "head_count is 65");
  ExpectRefused(with([](HashSpec& s) {
                  s.max_ngram_size = 6;
                  s.head_count = 64;
                }),
                "(max_ngram_size - 1) * head_count is 320");
  ExpectRefused(with([](HashSpec& s) { s.layer_ids.clear(); }), "number of layer_ids is 0");
  ExpectRefused(with([](HashSpec& s) { s.layer_ids.assign(65, 1); }), "number of layer_ids is 65");
  ExpectRefused(with([](HashSpec& s) { s.layer_ids = {-1}; }), "a layer id is -1");
  ExpectRefused(with([](HashSpec& s) { s.layer_ids = {3, 3}; }), "a layer id is 3");
  ExpectRefused(with([](HashSpec& s) { s.base_sizes.pop_back(); }), "number of base_sizes is 2");
  ExpectRefused(with([](HashSpec& s) { s.base_sizes[1] = 0; }), "a base size is 0");
  ExpectRefused(with([](HashSpec& s) { s.base_sizes[1] = int64_t{1} << 32; }), "a base size is");
  ExpectRefused(with([](HashSpec& s) { s.compressed_vocab_size = 0; }),
                "compressed_vocab_size is 0");
  ExpectRefused(with([](HashSpec& s) { s.compressed_vocab_size = int64_t{1} << 40; }),
                "compressed_vocab_size is");
  ExpectRefused(with([](HashSpec& s) { s.pad_id = -1; }), "pad_id (compressed) is -1");
  ExpectRefused(with([](HashSpec& s) { s.pad_id = 99092; }), "pad_id (compressed) is 99092");
  ExpectRefused(with([](HashSpec& s) { s.seed = 1; }), "seed is 1");
  ExpectRefused(with([](HashSpec& s) {
                  s.variant = Variant::kDemo;
                  s.seed = ~uint64_t{0};
                }),
                "seed is 18446744073709551615");
}

TEST(HashSpecTest, ReleasedTablesHaveTheReleasedRowCounts) {
  const auto sizes = ColumnSizes(V41Spec());
  ASSERT_TRUE(sizes.has_value());
  EXPECT_EQ((*sizes)[0][0], 16000057u);
  EXPECT_EQ(std::accumulate((*sizes)[0].begin(), (*sizes)[0].end(), uint64_t{0}), 384006168u);
  EXPECT_EQ(std::accumulate((*sizes)[1].begin(), (*sizes)[1].end(), uint64_t{0}), 384016682u);
}

TEST(HashSpecTest, NoPrimeIsUsedTwiceWhereBasesOverlap) {
  HashSpec spec = V41Spec();
  spec.base_sizes = {100, 90, 100};
  spec.layer_ids = {0, 1, 2};
  const auto sizes = ColumnSizes(spec);
  ASSERT_TRUE(sizes.has_value());
  std::vector<uint32_t> all;
  for (const auto& layer : *sizes) all.insert(all.end(), layer.begin(), layer.end());
  std::sort(all.begin(), all.end());
  EXPECT_EQ(std::adjacent_find(all.begin(), all.end()), all.end());
  EXPECT_EQ((*sizes)[0][0], 101u);
  // The second order starts over at 90 and skips what the first took.
  EXPECT_EQ((*sizes)[0][8], 97u);
}

TEST(HashSpecTest, BaseSizeWithoutPrimesAboveIsAnError) {
  HashSpec spec = V41Spec();
  spec.base_sizes[2] = kColumnRowsMax;
  const auto sizes = ColumnSizes(spec);
  ASSERT_FALSE(sizes.has_value());
  EXPECT_EQ(sizes.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(sizes.error().message(), HasSubstr("base size 4294967295"));
}

TEST(HashSpecTest, MultipliersAreOddAndNeverOverflowWithAnyCompressedId) {
  HashSpec spec = V41Spec();
  for (const int64_t vocab : {int64_t{1}, int64_t{2}, int64_t{99092}, kCompressedVocabMax}) {
    spec.compressed_vocab_size = vocab;
    for (const uint64_t multiplier : Multipliers(spec, 1)) {
      EXPECT_EQ(multiplier % 2, 1u);
      EXPECT_LE(multiplier, (uint64_t{1} << 63) / static_cast<uint64_t>(vocab));
    }
  }
}

TEST(PrimesTest, AgreesWithASieveUpToAMillion) {
  constexpr uint32_t kEnd = 1000000;
  std::vector<bool> composite(kEnd);
  for (uint32_t i = 2; i < kEnd; ++i) {
    EXPECT_EQ(IsPrime(i), !composite[i]) << i;
    for (uint64_t j = uint64_t{i} * i; j < kEnd && !composite[i]; j += i) composite[j] = true;
  }
  EXPECT_FALSE(IsPrime(0));
  EXPECT_FALSE(IsPrime(1));
}

TEST(PrimesTest, StrongPseudoprimesAreNotPrimes) {
  // Strong pseudoprimes to the base 2; to 2 and 3; to 2, 3 and 5; to 2, 3, 5 and 7.
  for (const uint32_t number : {2047u, 1373653u, 25326001u, 3215031751u, 4294967295u}) {
    EXPECT_FALSE(IsPrime(number)) << number;
  }
  EXPECT_TRUE(IsPrime(4294967291u));
}

TEST(PrimesTest, NextPrimeEndsAtThirtyTwoBits) {
  EXPECT_EQ(NextPrime(0), 2u);
  EXPECT_EQ(NextPrime(2), 3u);
  EXPECT_EQ(NextPrime(646399), 646403u);
  EXPECT_EQ(NextPrime(4294967290u), 4294967291u);
  EXPECT_EQ(NextPrime(4294967291u), 0u);
}

}  // namespace
}  // namespace engram
