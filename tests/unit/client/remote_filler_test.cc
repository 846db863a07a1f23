// Which batch a fill thread begins first; the test is the thread.
#include "client/remote_filler.h"

#include <chrono>
#include <cstring>
#include <thread>

#include <gtest/gtest.h>

#include "client/staging_ring.h"
#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using test::LoopbackCluster;
using test::SomeTokens;

class RemoteFillerTest : public testing::Test {
 protected:
  void SetUp() override {
    RemoteRowsOptions options = cluster_.Options();
    options.staging_buffers = 4;
    StagingRing::Options ring;
    ring.layer_count = cluster_.layout->layer_count();
    ring.column_count = cluster_.layout->column_count();
    ring.row_bytes = cluster_.layout->row_bytes();
    ring.tokens_max = options.batch_tokens_max;
    ring.history_max = 3;
    ring.buffer_count = options.staging_buffers;
    ring_ = StagingRing::Create(ring).value();
    transport_ = cluster_.network.CreateTransport();
    filler_ = RemoteFiller::Create(options,
                                   {.hasher = cluster_.hasher.get(),
                                    .layout = cluster_.layout.get(),
                                    .maps = cluster_.maps.get(),
                                    .ring = ring_.get()},
                                   transport_.get())
                  .value();
    Read(Begin(1));  // opens the sessions
  }
  void Hold() { cluster_.network.Hold(LoopbackCluster::Address(0)); }
  void LetGo() { cluster_.network.Release(LoopbackCluster::Address(0)); }

  struct Batch {
    std::vector<TokenId> tokens;
    StagingBuffer* buffer = nullptr;
  };
  Batch Begin(size_t tokens) {
    Batch batch{SomeTokens(tokens, ++seed_), nullptr};
    const TokenRun run{.tokens = batch.tokens};
    batch.buffer =
        ring_->Acquire({&run, 1}, SteadyClock().Now() + std::chrono::seconds(20)).value();
    filler_->Begin(*batch.buffer);
    return batch;
  }
  [[nodiscard]] bool Ready(const Batch& batch) const {
    return StagingRing::Ready(*batch.buffer, 0) && StagingRing::Ready(*batch.buffer, 1);
  }
  // To its end.
  void Read(const Batch& batch) {
    while (!Ready(batch)) (void)filler_->Progress();
    ExpectRead(batch);
  }
  void ExpectRead(const Batch& batch) {
    const TokenRun run{.tokens = batch.tokens};
    for (int32_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(StagingRing::LayerStatus(*batch.buffer, layer).ok());
      const auto expected =
          test::ExpectedRows(*cluster_.layout, *cluster_.hasher, layer, {&run, 1});
      EXPECT_EQ(std::memcmp(batch.buffer->rows(layer), expected.data(), expected.size()), 0);
    }
    EXPECT_FALSE(ring_->Release(*batch.buffer));
  }
  // The second is begun while the first waits for its rows.
  void ExpectReadTogether(size_t first_tokens, size_t second_tokens) {
    Hold();
    const Batch first = Begin(first_tokens);
    const uint64_t before = Begun();
    const Batch second = Begin(second_tokens);
    EXPECT_GT(Begun(), before);
    LetGo();
    Read(second);
    Read(first);
  }
  // Rows of batches that were begun.
  [[nodiscard]] uint64_t Begun() const { return filler_->counters().rows_unique.load(); }

  LoopbackCluster cluster_{2};
  std::unique_ptr<StagingRing> ring_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<RemoteFiller> filler_;
  uint64_t seed_ = 40;
};

TEST_F(RemoteFillerTest, ALargeBatchYieldsToASmallOneThatIsRead) {
  const Batch small = Begin(20);
  const uint64_t before = Begun();
  const Batch large = Begin(200);
  EXPECT_EQ(Begun(), before);
  while (!Ready(small)) (void)filler_->Progress();
  Read(large);
  EXPECT_GT(Begun(), before);
  ExpectRead(small);
}

TEST_F(RemoteFillerTest, TwoOfAKindAreReadTogether) { ExpectReadTogether(101, 200); }

TEST_F(RemoteFillerTest, ASmallBatchYieldsToNone) { ExpectReadTogether(200, 20); }

// The small one may be waiting for a node that is lost.
TEST_F(RemoteFillerTest, ABatchDoesNotYieldForLong) {
  Hold();
  const Batch small = Begin(20);
  const Batch large = Begin(200);
  const Batch larger = Begin(256);
  const uint64_t before = Begun();
  std::this_thread::sleep_for(milliseconds(10));
  (void)filler_->Progress();
  (void)filler_->Progress();
  EXPECT_GE(Begun(), before + 456);  // both, and each token has several rows
  EXPECT_FALSE(Ready(small));
  LetGo();
  Read(larger);
  Read(large);
  Read(small);
}

TEST_F(RemoteFillerTest, ABatchThatIsAbandonedWhileItYieldsIsNeverBegun) {
  Hold();
  const Batch small = Begin(20);
  const Batch large = Begin(200);
  const uint64_t before = Begun();
  EXPECT_TRUE(ring_->Release(*large.buffer));  // told to drop it
  filler_->Abandon(*large.buffer);
  std::this_thread::sleep_for(milliseconds(10));
  for (int i = 0; i < 5; ++i) (void)filler_->Progress();
  EXPECT_EQ(Begun(), before);
  LetGo();
  Read(small);
  // Its buffer is free again.
  std::vector<Batch> all;
  for (int i = 0; i < 4; ++i) all.push_back(Begin(10));
  for (const Batch& batch : all) Read(batch);
}

// Who sleeps wakes for it: the thread's own loop, which never sees the test's calls.
TEST(RemoteRowsYieldTest, BatchesOfAllSizesInFlightAreReadToTheirEnds) {
  for (const uint32_t threads : {1u, 3u}) {
    LoopbackCluster cluster(3);
    RemoteRowsOptions options = cluster.Options();
    options.io_threads = threads;
    options.staging_buffers = 4;
    const auto source = cluster.Connect(options);
    for (int round = 0; round < 50; ++round) {
      std::vector<std::vector<TokenId>> tokens;
      std::vector<Ticket> tickets;
      for (const size_t count : {size_t{1} + round % 30, size_t{100}, size_t{256}}) {
        tokens.push_back(SomeTokens(count, 1000 + count * 100 + static_cast<size_t>(round)));
        const TokenRun run{.tokens = tokens.back()};
        tickets.push_back(source->Prefetch({&run, 1}, {}).value());
      }
      // The last one first in every second round.
      for (size_t i = 0; i < 3; ++i) {
        const size_t at = round % 2 == 0 ? i : 2 - i;
        const TokenRun run{.tokens = tokens[at]};
        for (int32_t layer = 0; layer < 2; ++layer) {
          const auto rows = source->Await(tickets[at], layer);
          ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
          test::ExpectRightRows(*source, layer, {&run, 1}, *rows);
        }
        source->Release(tickets[at]);
      }
    }
  }
}

}  // namespace
}  // namespace engram
