// The hash against a slow, obvious model: Python-like integers, one token and one column at a time.
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "engram/hash/bucket_kernel.h"
#include "engram/hash/ngram_hasher.h"

namespace engram {
namespace {

__extension__ typedef __int128 BigInt;

constexpr int32_t kVocabulary = 120;

struct Text {
  std::vector<TokenId> tokens;
  std::vector<uint8_t> dead;
};

// Two's complement of 64 bits, as numpy's int64 wraps.
BigInt Wrapped(BigInt value) { return static_cast<int64_t>(static_cast<uint64_t>(value)); }

BigInt FlooredModulo(BigInt value, BigInt modulus) {
  const BigInt remainder = value % modulus;
  return remainder < 0 ? remainder + modulus : remainder;
}

// Section 4 of the rule, word for word.
BigInt Look(const HashSpec& spec, const std::vector<int32_t>& compression, const Text& text,
            size_t t, size_t k) {
  for (size_t step = 0; step <= k; ++step) {
    const bool before_start = step > t;
    if (before_start) return spec.pad_id;
    if (spec.variant == Variant::kV41 && !text.dead.empty() && text.dead[t - step] != 0) {
      return spec.pad_id;
    }
  }
  const TokenId id = text.tokens[t - k];
  return id < 0 ? id : compression[static_cast<size_t>(id)];
}

std::vector<uint32_t> ModelHash(const HashSpec& spec, const std::vector<int32_t>& compression,
                                const Text& text, size_t layer) {
  const auto primes = *ColumnSizes(spec);
  const auto multipliers = Multipliers(spec, spec.layer_ids[layer]);
  const size_t size = text.tokens.size();
  std::vector<uint32_t> buckets(static_cast<size_t>(spec.column_count()) * size);
  for (size_t t = 0; t < size; ++t) {
    size_t column = 0;
    for (size_t order = 2; order <= static_cast<size_t>(spec.max_ngram_size); ++order) {
      BigInt mix = 0;
      for (size_t k = 0; k < order; ++k) {
        mix ^= Wrapped(Look(spec, compression, text, t, k) * BigInt{multipliers[k]});
      }
      for (int32_t head = 0; head < spec.head_count; ++head, ++column) {
        buckets[column * size + t] =
            static_cast<uint32_t>(FlooredModulo(mix, primes[layer][column]));
      }
    }
  }
  return buckets;
}

HashSpec AnySpec(Variant variant) {
  HashSpec spec;
  spec.variant = variant;
  spec.max_ngram_size = *rc::gen::inRange(2, kNgramSizeMax + 1);
  spec.head_count = *rc::gen::inRange(1, 5);
  for (int32_t i = 0; i + 1 < spec.max_ngram_size; ++i) {
    // Sizes for which different kernels are chosen.
    spec.base_sizes.push_back(*rc::gen::element<int64_t>(1, 50, 8000, 16300, 16000000, 1 << 30,
                                                         int64_t{2147483600}, int64_t{4294960000}));
  }
  spec.layer_ids = {*rc::gen::inRange(0, 100), 100, 101};
  spec.compressed_vocab_size = *rc::gen::element<int64_t>(60, 99092, kCompressedVocabMax);
  spec.pad_id = *rc::gen::inRange(0, 60);
  spec.seed = variant == Variant::kDemo ? *rc::gen::inRange<uint64_t>(0, uint64_t{1} << 40) : 0;
  return spec;
}

std::vector<int32_t> AnyCompression(const HashSpec& spec) {
  return *rc::gen::container<std::vector<int32_t>>(
      kVocabulary, rc::gen::inRange(0, static_cast<int32_t>(spec.compressed_vocab_size)));
}

Text AnyText(Variant variant) {
  Text text;
  const TokenId least = variant == Variant::kDemo && *rc::gen::inRange(0, 2) == 0
                            ? *rc::gen::element(-3, -1000000, std::numeric_limits<TokenId>::min())
                            : 0;
  text.tokens = *rc::gen::container<std::vector<TokenId>>(rc::gen::oneOf(
      rc::gen::inRange<TokenId>(0, kVocabulary), rc::gen::inRange<TokenId>(least, kVocabulary)));
  if (variant == Variant::kV41 && *rc::gen::inRange(0, 3) != 0) {
    text.dead = *rc::gen::container<std::vector<uint8_t>>(text.tokens.size(),
                                                          rc::gen::element<uint8_t>(0, 0, 0, 1));
  }
  return text;
}

TokenRun Slice(const Text& text, size_t begin, size_t end) {
  TokenRun run;
  run.history = std::span(text.tokens).first(begin);
  run.tokens = std::span(text.tokens).subspan(begin, end - begin);
  if (!text.dead.empty()) {
    run.history_dead = std::span(text.dead).first(begin);
    run.tokens_dead = std::span(text.dead).subspan(begin, end - begin);
  }
  return run;
}

RC_GTEST_PROP(HashPropertyTest, EqualsTheSlowModelOnEverySpecAndText, ()) {
  const Variant variant = *rc::gen::element(Variant::kDemo, Variant::kV41);
  const HashSpec spec = AnySpec(variant);
  RC_PRE(ValidateHashSpec(spec).ok());
  RC_PRE(ColumnSizes(spec).has_value());
  const auto compression = AnyCompression(spec);
  const auto hasher = NgramHasher::Create(spec, compression);
  RC_ASSERT(hasher.has_value());
  const Text text = AnyText(variant);
  const TokenRun run = Slice(text, 0, text.tokens.size());
  RC_ASSERT(hasher->Validate(run).ok());
  for (size_t layer = 0; layer < spec.layer_ids.size(); ++layer) {
    std::vector<uint32_t> buckets(static_cast<size_t>(spec.column_count()) * text.tokens.size());
    hasher->Hash(static_cast<int32_t>(layer), run, buckets.data(), text.tokens.size());
    RC_ASSERT(buckets == ModelHash(spec, compression, text, layer));

    std::vector<uint64_t> mixes(static_cast<size_t>(spec.max_ngram_size - 1) * text.tokens.size());
    hasher->Mix(static_cast<int32_t>(layer), run, mixes.data(), text.tokens.size());
    std::vector<uint32_t> in_two_steps(buckets.size());
    for (int32_t column = 0; column < spec.column_count(); ++column) {
      const auto order = static_cast<size_t>(column / spec.head_count);
      hasher->Reduce(static_cast<int32_t>(layer), column,
                     std::span(mixes).subspan(order * text.tokens.size(), text.tokens.size()),
                     in_two_steps.data() + static_cast<size_t>(column) * text.tokens.size());
    }
    RC_ASSERT(in_two_steps == buckets);
  }
}

RC_GTEST_PROP(HashPropertyTest, RunsWithTheirLookBackEqualTheWhole, ()) {
  const Variant variant = *rc::gen::element(Variant::kDemo, Variant::kV41);
  const HashSpec spec = AnySpec(variant);
  RC_PRE(ColumnSizes(spec).has_value());
  const auto hasher = NgramHasher::Create(spec, AnyCompression(spec));
  RC_ASSERT(hasher.has_value());
  const Text text = AnyText(variant);
  const size_t size = text.tokens.size();
  const auto columns = static_cast<size_t>(spec.column_count());
  std::vector<uint32_t> whole(columns * size);
  hasher->Hash(0, Slice(text, 0, size), whole.data(), size);
  std::vector<uint32_t> pieces(columns * size);
  LookBack look_back(spec.max_ngram_size);
  for (size_t begin = 0; begin < size;) {
    const size_t end = begin + *rc::gen::inRange<size_t>(1, size - begin + 1);
    TokenRun run = Slice(text, begin, end);
    run.history = look_back.tokens();
    run.history_dead = look_back.dead();
    RC_ASSERT(hasher->Validate(run).ok());
    hasher->Hash(0, run, pieces.data() + begin, size);
    look_back.Append(run.tokens, run.tokens_dead);
    begin = end;
  }
  RC_ASSERT(pieces == whole);
}

RC_GTEST_PROP(HashPropertyTest, KernelsGiveTheTrueRemainder, (uint32_t number, uint64_t hash)) {
  // Any divisor does: nothing in a kernel needs a prime.
  const Divisor divisor(std::max(number, 2u));
  hash >>= 1;
  RC_ASSERT(divisor.Remainder(hash) == hash % divisor.prime());
  const uint64_t multiple = hash - hash % divisor.prime();
  RC_ASSERT(divisor.Remainder(multiple) == 0u);
  const std::vector<uint64_t> hashes(9, multiple);
  std::vector<uint32_t> buckets(9, 1);
  ChooseBucketKernel(divisor)(hashes.data(), 9, divisor, buckets.data());
  RC_ASSERT(buckets == std::vector<uint32_t>(9, 0));
}

}  // namespace
}  // namespace engram
