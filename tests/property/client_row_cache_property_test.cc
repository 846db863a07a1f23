// The cache against a map that forgets nothing: what it gives is right, its size is bounded.
#include <cstring>
#include <map>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "client/row_cache.h"

namespace engram {
namespace {

RC_GTEST_PROP(RowCacheProperty, FoundRowsAreTheOnesInsertedAndMemoryIsBounded, ()) {
  const auto row_bytes = *rc::gen::inRange<uint32_t>(1, 300);
  const auto rows = *rc::gen::inRange<uint32_t>(1, 9);
  const auto bytes_max = *rc::gen::inRange<size_t>(0, 200'000);
  RowCache cache(bytes_max, row_bytes, rows);
  RC_ASSERT(cache.bytes_used() <= bytes_max);
  std::map<std::pair<uint64_t, uint32_t>, std::byte> model;
  const auto steps = *rc::gen::inRange(0, 2000);
  const auto keys = *rc::gen::inRange<uint64_t>(1, 1000);
  uint64_t x = *rc::gen::arbitrary<uint64_t>();
  for (int i = 0; i < steps; ++i) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    const NgramKey key{(x >> 33) % keys * 0x10001, static_cast<uint32_t>(x >> 17) % 3};
    const auto* const found = cache.Find(key);
    if (found != nullptr) {
      const std::vector<std::byte> right(size_t{row_bytes} * rows, model.at({key.mix, key.table}));
      RC_ASSERT(std::memcmp(found, right.data(), right.size()) == 0);
      RC_ASSERT(cache.Insert(key) == nullptr);
      continue;
    }
    const bool admitted = cache.Admits(key);
    std::byte* const place = cache.Insert(key);
    RC_ASSERT((place != nullptr) == admitted);
    if (place == nullptr) continue;
    const auto fill = static_cast<std::byte>(x >> 20);
    std::fill_n(place, size_t{row_bytes} * rows, fill);
    model[{key.mix, key.table}] = fill;
    RC_ASSERT(cache.ngrams() <= cache.ngrams_max());
  }
}

}  // namespace
}  // namespace engram
