#include "engram/hash/hash_spec.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "engram/base/check.h"
#include "engram/hash/numpy_random.h"
#include "engram/hash/primes.h"

namespace engram {
namespace {

constexpr uint64_t kLayerSeedStride = 10007;
constexpr uint64_t kSeedMax = uint64_t{1} << 62;

Status Bad(const std::string& field, int64_t found, const std::string& allowed) {
  return Status(StatusCode::kInvalidArgument,
                "hash spec: " + field + " is " + std::to_string(found) + ", must be " + allowed);
}

std::string Range(int64_t low, int64_t high) {
  return std::to_string(low) + " to " + std::to_string(high);
}

Status ValidateShape(const HashSpec& spec) {
  if (spec.variant != Variant::kDemo && spec.variant != Variant::kV41) {
    return Bad("variant", static_cast<int64_t>(spec.variant), "1 (demo) or 2 (v41)");
  }
  if (spec.max_ngram_size < 2 || spec.max_ngram_size > kNgramSizeMax) {
    return Bad("max_ngram_size", spec.max_ngram_size, Range(2, kNgramSizeMax));
  }
  if (spec.head_count < 1 || spec.head_count > kHeadCountMax) {
    return Bad("head_count", spec.head_count, Range(1, kHeadCountMax));
  }
  if (spec.column_count() > kColumnCountMax) {
    return Bad("(max_ngram_size - 1) * head_count", spec.column_count(),
               "at most " + std::to_string(kColumnCountMax));
  }
  return Status();
}

Status ValidateLayers(const HashSpec& spec) {
  if (spec.layer_ids.empty() || spec.layer_ids.size() > static_cast<size_t>(kEngramLayersMax)) {
    return Bad("the number of layer_ids", static_cast<int64_t>(spec.layer_ids.size()),
               Range(1, kEngramLayersMax));
  }
  std::set<int32_t> seen;
  for (const int32_t layer_id : spec.layer_ids) {
    if (layer_id < 0) return Bad("a layer id", layer_id, "0 or more");
    if (!seen.insert(layer_id).second) {
      return Bad("a layer id", layer_id, "listed once only in layer_ids");
    }
  }
  return Status();
}

}  // namespace

Status ValidateHashSpec(const HashSpec& spec) {
  ENGRAM_RETURN_IF_ERROR(ValidateShape(spec));
  ENGRAM_RETURN_IF_ERROR(ValidateLayers(spec));
  if (spec.base_sizes.size() != static_cast<size_t>(spec.max_ngram_size - 1)) {
    return Bad("the number of base_sizes", static_cast<int64_t>(spec.base_sizes.size()),
               "max_ngram_size - 1 = " + std::to_string(spec.max_ngram_size - 1));
  }
  for (const int64_t size : spec.base_sizes) {
    if (size < 1 || size > kColumnRowsMax)
      return Bad("a base size", size, Range(1, kColumnRowsMax));
  }
  if (spec.compressed_vocab_size < 1 || spec.compressed_vocab_size > kCompressedVocabMax) {
    return Bad("compressed_vocab_size", spec.compressed_vocab_size, Range(1, kCompressedVocabMax));
  }
  if (spec.pad_id < 0 || spec.pad_id >= spec.compressed_vocab_size) {
    return Bad(
        "pad_id (compressed)", spec.pad_id,
        "0 to compressed_vocab_size - 1 = " + std::to_string(spec.compressed_vocab_size - 1));
  }
  if (spec.variant == Variant::kV41 && spec.seed != 0) {
    return Status(StatusCode::kInvalidArgument, "hash spec: seed is " + std::to_string(spec.seed) +
                                                    ", must be 0 in the v41 variant");
  }
  if (spec.seed > kSeedMax) {
    return Status(StatusCode::kInvalidArgument,
                  "hash spec: seed is " + std::to_string(spec.seed) + ", must be at most 2^62");
  }
  return Status();
}

Result<std::vector<std::vector<uint32_t>>> ColumnSizes(const HashSpec& spec) {
  ENGRAM_CHECK(ValidateHashSpec(spec).ok());
  std::unordered_set<uint32_t> used;
  // Every prime from a base up to here is used, so that a later layer need not walk them again.
  std::unordered_map<int64_t, uint32_t> used_up_to;
  std::vector<std::vector<uint32_t>> sizes(spec.layer_ids.size());
  for (std::vector<uint32_t>& layer_sizes : sizes) {
    layer_sizes.reserve(static_cast<size_t>(spec.column_count()));
    for (const int64_t base : spec.base_sizes) {
      uint32_t& current =
          used_up_to.try_emplace(base, static_cast<uint32_t>(base - 1)).first->second;
      for (int32_t head = 0; head < spec.head_count; ++head) {
        do {
          current = NextPrime(current);
          if (current == 0) {
            return Error(StatusCode::kInvalidArgument,
                         "hash spec: base size " + std::to_string(base) +
                             " leaves too few unused primes below 2^32: choose a smaller one");
          }
        } while (!used.insert(current).second);
        layer_sizes.push_back(current);
      }
    }
  }
  return sizes;
}

std::vector<uint64_t> Multipliers(const HashSpec& spec, int32_t layer_id) {
  ENGRAM_CHECK(spec.compressed_vocab_size >= 1 &&
               spec.compressed_vocab_size <= kCompressedVocabMax);
  const int64_t limit = std::numeric_limits<int64_t>::max() / spec.compressed_vocab_size;
  const auto half = static_cast<uint64_t>(std::max<int64_t>(1, limit / 2));
  NumpyGenerator generator(spec.seed + kLayerSeedStride * static_cast<uint64_t>(layer_id));
  std::vector<uint64_t> multipliers(static_cast<size_t>(spec.max_ngram_size));
  for (uint64_t& multiplier : multipliers) multiplier = 2 * generator.Below(half) + 1;
  return multipliers;
}

}  // namespace engram
