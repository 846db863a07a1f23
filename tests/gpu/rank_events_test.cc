// How the host waits for the GPU: asleep, or looking for as long as it was told.
#include "model_worker/cuda/rank_events.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "model_worker/cuda/device_memory.h"
#include "tests/gpu/gpu_test.h"

namespace engram::gpu {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

class RankEventsTest : public GpuTest, public testing::WithParamInterface<microseconds> {};

// Longer than the GPU takes, shorter, not at all.
TEST_P(RankEventsTest, AnEventIsAwaitedToItsEnd) {
  auto stream = MakeStream();
  auto event = MakeEvent();
  ASSERT_TRUE(stream.has_value() && event.has_value());
  const RankEvents events(nullptr, {}, GetParam());
  // One that was never recorded is over.
  EXPECT_TRUE(events.Await(event->get(), "nothing").ok());
  std::atomic<int> done{0};
  for (int round = 1; round <= 3; ++round) {
    const auto work = [](void* count) {
      std::this_thread::sleep_for(milliseconds(20));
      static_cast<std::atomic<int>*>(count)->fetch_add(1);
    };
    ExpectCuda(cudaLaunchHostFunc(stream->get(), work, &done));
    ExpectCuda(cudaEventRecord(event->get(), stream->get()));
    const Status status = events.Await(event->get(), "awaiting a test");
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_EQ(done.load(), round);
  }
}

INSTANTIATE_TEST_SUITE_P(Spins, RankEventsTest,
                         testing::Values(microseconds(0), microseconds(500),
                                         microseconds(10000000)),
                         [](const auto& tested) {
                           return "Us" + std::to_string(tested.param.count());
                         });

}  // namespace
}  // namespace engram::gpu
