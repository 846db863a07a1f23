#include <atomic>
#include <vector>

#include <gtest/gtest.h>

#include "model_worker/cpu/compute_pool.h"

namespace engram {
namespace {

TEST(ComputePoolTest, EveryIndexRunsExactlyOnce) {
  for (const uint32_t threads : {1u, 2u, 5u}) {
    ComputePool pool(threads);
    for (const size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{1000}}) {
      std::vector<std::atomic<int>> runs(count);
      pool.Run(count, [&](size_t index, uint32_t thread) {
        EXPECT_LT(thread, threads);
        runs[index].fetch_add(1, std::memory_order_relaxed);
      });
      for (const auto& r : runs) EXPECT_EQ(r.load(), 1);
    }
  }
}

TEST(ComputePoolTest, WritesOfALoopAreSeenAfterIt) {
  ComputePool pool(3);
  std::vector<uint64_t> values(64, 0);
  for (uint64_t round = 0; round < 3000; ++round) {
    pool.Run(values.size(), [&](size_t index, uint32_t) { values[index] += index + round; });
    if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  for (uint64_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], 3000 * i + 2999 * 3000 / 2);
}

TEST(ComputePoolTest, APoolNobodyUsedEnds) { const ComputePool pool(4); }

}  // namespace
}  // namespace engram
