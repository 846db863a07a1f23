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
  const auto bytes_max = *rc::gen::inRange<size_t>(0, 200'000);
  RowCache cache(bytes_max, row_bytes);
  RC_ASSERT(cache.bytes_used() <= bytes_max);
  cache.Reset(TableVersion(1));
  std::map<uint64_t, std::vector<std::byte>> model;
  const auto steps = *rc::gen::inRange(0, 2000);
  const auto keys = *rc::gen::inRange<uint64_t>(1, 1000);
  uint64_t x = *rc::gen::arbitrary<uint64_t>();
  for (int i = 0; i < steps; ++i) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    const RowAddress row((x >> 33) % keys * 0x10001);
    const std::byte* found = cache.Find(row);
    if (found != nullptr) {
      RC_ASSERT(std::memcmp(found, model.at(row.value()).data(), row_bytes) == 0);
      continue;
    }
    std::vector<std::byte> bytes(row_bytes, static_cast<std::byte>(x >> 20));
    cache.Insert(row, bytes.data());
    model[row.value()] = bytes;
  }
  cache.Reset(TableVersion(2));
  for (const auto& [row, bytes] : model) RC_ASSERT(cache.Find(RowAddress(row)) == nullptr);
}

}  // namespace
}  // namespace engram
