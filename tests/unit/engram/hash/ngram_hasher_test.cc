#include "engram/hash/ngram_hasher.h"

#include <random>

#include <gmock/gmock.h>

#include "tests/unit/engram/hash/allocation_count.h"

namespace engram {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

HashSpec SmallSpec(Variant variant, int32_t max_ngram_size = 4) {
  HashSpec spec;
  spec.variant = variant;
  spec.max_ngram_size = max_ngram_size;
  spec.head_count = 3;
  spec.base_sizes.assign(static_cast<size_t>(max_ngram_size - 1), 20000);
  spec.layer_ids = {0, 5};
  spec.compressed_vocab_size = 50;
  spec.pad_id = 2;
  return spec;
}

std::vector<int32_t> HalvedVocabulary() {
  std::vector<int32_t> compression(100);
  for (size_t i = 0; i < compression.size(); ++i) compression[i] = static_cast<int32_t>(i / 2);
  return compression;
}

NgramHasher MakeHasher(const HashSpec& spec) {
  auto hasher = NgramHasher::Create(spec, HalvedVocabulary());
  EXPECT_TRUE(hasher.has_value()) << hasher.error().ToString();
  return *std::move(hasher);
}

struct Sequence {
  std::vector<TokenId> tokens;
  std::vector<uint8_t> dead;
};

Sequence RandomSequence(size_t size, uint32_t seed, bool with_dead, bool with_negative = false) {
  std::mt19937 random(seed);
  Sequence out;
  for (size_t i = 0; i < size; ++i) {
    out.tokens.push_back(static_cast<TokenId>(random() % 100));
    if (with_negative && random() % 4 == 0) out.tokens.back() = -1 - out.tokens.back();
    out.dead.push_back(random() % 4 == 0);
  }
  if (!with_dead) out.dead.clear();
  return out;
}

std::vector<uint32_t> HashWhole(const NgramHasher& hasher, int32_t layer,
                                const Sequence& sequence) {
  const size_t size = sequence.tokens.size();
  std::vector<uint32_t> buckets(static_cast<size_t>(hasher.spec().column_count()) * size);
  hasher.Hash(
      layer,
      {.history = {}, .tokens = sequence.tokens, .history_dead = {}, .tokens_dead = sequence.dead},
      buckets.data(), size);
  return buckets;
}

// Hashes in pieces that end at `cuts` and at the end, carrying a LookBack.
std::vector<uint32_t> HashInPieces(const NgramHasher& hasher, int32_t layer,
                                   const Sequence& sequence, std::vector<size_t> cuts) {
  const size_t size = sequence.tokens.size();
  std::vector<uint32_t> buckets(static_cast<size_t>(hasher.spec().column_count()) * size);
  LookBack look_back(hasher.spec().max_ngram_size);
  cuts.push_back(size);
  size_t begin = 0;
  for (const size_t end : cuts) {
    const auto tokens = std::span(sequence.tokens).subspan(begin, end - begin);
    const auto dead = sequence.dead.empty()
                          ? std::span<const uint8_t>()
                          : std::span<const uint8_t>(sequence.dead).subspan(begin, end - begin);
    const TokenRun run{.history = look_back.tokens(),
                       .tokens = tokens,
                       .history_dead = look_back.dead(),
                       .tokens_dead = dead};
    EXPECT_TRUE(hasher.Validate(run).ok()) << hasher.Validate(run).ToString();
    hasher.Hash(layer, run, buckets.data() + begin, size);
    look_back.Append(tokens, dead);
    begin = end;
  }
  return buckets;
}

TEST(NgramHasherTest, EverySplitOfASequenceEqualsTheWhole) {
  for (const Variant variant : {Variant::kDemo, Variant::kV41}) {
    for (int32_t n = 2; n <= 5; ++n) {
      const NgramHasher hasher = MakeHasher(SmallSpec(variant, n));
      for (uint32_t seed = 0; seed < 6; ++seed) {
        const Sequence sequence =
            RandomSequence(24, seed, variant == Variant::kV41, variant == Variant::kDemo);
        const auto whole = HashWhole(hasher, 1, sequence);
        for (size_t first = 0; first <= 24; ++first) {
          for (size_t second = first; second <= 24; ++second) {
            ASSERT_EQ(HashInPieces(hasher, 1, sequence, {first, second}), whole)
                << "N " << n << " seed " << seed << " cut at " << first << " and " << second;
          }
        }
      }
    }
  }
}

TEST(NgramHasherTest, OneTokenAtATimeEqualsTheWhole) {
  for (const Variant variant : {Variant::kDemo, Variant::kV41}) {
    const NgramHasher hasher = MakeHasher(SmallSpec(variant, 8));
    const Sequence sequence = RandomSequence(700, 3, variant == Variant::kV41);
    std::vector<size_t> cuts;
    for (size_t i = 1; i < 700; ++i) cuts.push_back(i);
    EXPECT_EQ(HashInPieces(hasher, 0, sequence, cuts), HashWhole(hasher, 0, sequence));
  }
}

TEST(NgramHasherTest, LongRunsCrossTheInnerBlocksUnnoticed) {
  const NgramHasher hasher = MakeHasher(SmallSpec(Variant::kV41));
  for (const size_t size : {255, 256, 257, 511, 512, 513, 1024}) {
    const Sequence sequence = RandomSequence(size, 9, true);
    EXPECT_EQ(HashInPieces(hasher, 0, sequence, {100, 101, 200}), HashWhole(hasher, 0, sequence));
  }
}

TEST(NgramHasherTest, OnlyTheLastTokensOfALongHistoryCount) {
  const NgramHasher hasher = MakeHasher(SmallSpec(Variant::kV41));
  const Sequence sequence = RandomSequence(20, 4, false);
  const auto whole = HashWhole(hasher, 0, sequence);
  std::vector<uint32_t> last(static_cast<size_t>(hasher.spec().column_count()));
  hasher.Hash(0,
              {.history = std::span(sequence.tokens).first(19),
               .tokens = std::span(sequence.tokens).last(1),
               .history_dead = {},
               .tokens_dead = {}},
              last.data(), 1);
  for (size_t column = 0; column < last.size(); ++column) {
    EXPECT_EQ(last[column], whole[column * 20 + 19]);
  }
}

TEST(NgramHasherTest, DeadTokenHashesAsPadsAndCutsTheLookBack) {
  const NgramHasher hasher = MakeHasher(SmallSpec(Variant::kV41));
  // What stands before and at the dead position makes no difference to anything from there on.
  const Sequence a{{10, 11, 12, 13, 14, 15}, {0, 0, 1, 0, 0, 0}};
  const Sequence b{{90, 91, 92, 13, 14, 15}, {0, 0, 1, 0, 0, 0}};
  const auto hash_a = HashWhole(hasher, 0, a);
  const auto hash_b = HashWhole(hasher, 0, b);
  for (size_t column = 0; column < 9; ++column) {
    for (size_t t = 2; t < 6; ++t) EXPECT_EQ(hash_a[column * 6 + t], hash_b[column * 6 + t]);
    EXPECT_NE(hash_a[column * 6 + 1], hash_b[column * 6 + 1]);
  }
  // The token after it sees what the first token of a sequence sees.
  const auto fresh = HashWhole(hasher, 0, Sequence{{13, 14, 15}, {}});
  for (size_t column = 0; column < 9; ++column) {
    for (size_t t = 0; t < 3; ++t) EXPECT_EQ(hash_a[column * 6 + 3 + t], fresh[column * 3 + t]);
  }
}

TEST(NgramHasherTest, WritesNothingBesideItsTokens) {
  const NgramHasher hasher = MakeHasher(SmallSpec(Variant::kV41));
  const Sequence sequence = RandomSequence(5, 1, false);
  std::vector<uint32_t> buckets(9 * 8, 0xabcdabcd);
  hasher.Hash(0, {.history = {}, .tokens = sequence.tokens, .history_dead = {}, .tokens_dead = {}},
              buckets.data(), 8);
  for (size_t column = 0; column < 9; ++column) {
    for (size_t t = 0; t < 5; ++t) {
      EXPECT_LT(buckets[column * 8 + t], hasher.column_sizes()[0][column]);
    }
    for (size_t t = 5; t < 8; ++t) EXPECT_EQ(buckets[column * 8 + t], 0xabcdabcd);
  }
}

TEST(NgramHasherTest, HashingAllocatesNothing) {
  const NgramHasher hasher = MakeHasher(SmallSpec(Variant::kV41));
  const Sequence sequence = RandomSequence(600, 1, true);
  std::vector<uint32_t> buckets(9 * 600);
  LookBack look_back(4);
  look_back.Append(std::span(sequence.tokens).first(1), std::span(sequence.dead).first(1));
  const int64_t before = AllocationCount();
  for (size_t i = 1; i < 600; ++i) {
    const TokenRun run{.history = look_back.tokens(),
                       .tokens = std::span(sequence.tokens).subspan(i),
                       .history_dead = look_back.dead(),
                       .tokens_dead = std::span(sequence.dead).subspan(i)};
    const bool ok = hasher.Validate(run).ok();
    hasher.Hash(0, run, buckets.data(), 600);
    look_back.Append(run.tokens.first(1), run.tokens_dead.first(1));
    if (!ok) break;
  }
  EXPECT_EQ(AllocationCount(), before);
}

TEST(NgramHasherTest, TokenOutsideTheVocabularyIsRefusedByName) {
  const NgramHasher v41 = MakeHasher(SmallSpec(Variant::kV41));
  const NgramHasher demo = MakeHasher(SmallSpec(Variant::kDemo));
  const std::vector<TokenId> beyond = {1, 2, 100};
  const std::vector<TokenId> negative = {1, -7};
  const Status status =
      v41.Validate({.history = {}, .tokens = beyond, .history_dead = {}, .tokens_dead = {}});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("tokens[2] is token id 100"));
  EXPECT_THAT(
      v41.Validate({.history = negative, .tokens = {}, .history_dead = {}, .tokens_dead = {}})
          .message(),
      HasSubstr("history[1] is token id -7"));
  EXPECT_TRUE(
      demo.Validate(
              {.history = negative, .tokens = negative, .history_dead = {}, .tokens_dead = {}})
          .ok());
  EXPECT_FALSE(
      demo.Validate({.history = {}, .tokens = beyond, .history_dead = {}, .tokens_dead = {}}).ok());
}

TEST(NgramHasherTest, DeadMaskOfAnotherLengthOrInTheDemoVariantIsRefused) {
  const NgramHasher v41 = MakeHasher(SmallSpec(Variant::kV41));
  const NgramHasher demo = MakeHasher(SmallSpec(Variant::kDemo));
  const std::vector<TokenId> tokens = {1, 2, 3};
  const std::vector<uint8_t> two = {0, 1};
  const std::vector<uint8_t> three = {0, 1, 0};
  EXPECT_THAT(
      v41.Validate({.history = {}, .tokens = tokens, .history_dead = {}, .tokens_dead = two})
          .message(),
      HasSubstr("tokens_dead has 2 entries, must be empty or 3"));
  EXPECT_THAT(
      v41.Validate({.history = tokens, .tokens = {}, .history_dead = two, .tokens_dead = {}})
          .message(),
      HasSubstr("history_dead has 2 entries, must be empty or 3"));
  EXPECT_TRUE(
      v41.Validate(
             {.history = tokens, .tokens = tokens, .history_dead = three, .tokens_dead = three})
          .ok());
  EXPECT_THAT(
      demo.Validate({.history = {}, .tokens = tokens, .history_dead = {}, .tokens_dead = three})
          .message(),
      HasSubstr("demo variant has no dead tokens"));
}

TEST(NgramHasherTest, CompressionTableOutsideTheCompressedVocabularyIsRefused) {
  std::vector<int32_t> compression = HalvedVocabulary();
  compression[7] = 50;
  const auto hasher = NgramHasher::Create(SmallSpec(Variant::kV41), compression);
  ASSERT_FALSE(hasher.has_value());
  EXPECT_EQ(hasher.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(hasher.error().message(), HasSubstr("token id 7 maps to 50"));
}

TEST(LookBackTest, KeepsTheLastTokensOldestFirst) {
  LookBack look_back(4);
  EXPECT_THAT(look_back.tokens(), IsEmpty());
  const std::vector<TokenId> first = {1, 2};
  const std::vector<TokenId> second = {3, 4};
  const std::vector<TokenId> long_run = {5, 6, 7, 8, 9};
  look_back.Append(first);
  EXPECT_THAT(look_back.tokens(), ElementsAre(1, 2));
  look_back.Append(second);
  EXPECT_THAT(look_back.tokens(), ElementsAre(2, 3, 4));
  EXPECT_THAT(look_back.dead(), IsEmpty());
  const std::vector<uint8_t> dead = {1, 1, 0, 1, 0};
  look_back.Append(long_run, dead);
  EXPECT_THAT(look_back.tokens(), ElementsAre(7, 8, 9));
  EXPECT_THAT(look_back.dead(), ElementsAre(0, 1, 0));
  look_back.Append(second);
  EXPECT_THAT(look_back.tokens(), ElementsAre(9, 3, 4));
  EXPECT_THAT(look_back.dead(), IsEmpty());
}

}  // namespace
}  // namespace engram
