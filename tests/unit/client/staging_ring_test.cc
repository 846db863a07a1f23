#include "client/staging_ring.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::ElementsAre;

StagingRing::Options SmallOptions() {
  StagingRing::Options options;
  options.layer_count = 2;
  options.column_count = 3;
  options.row_bytes = 264;
  options.tokens_max = 8;
  options.history_max = 3;
  options.buffer_count = 2;
  options.part_count = 2;
  return options;
}

class StagingRingTest : public ::testing::Test {
 protected:
  StagingBuffer* Acquire(std::span<const TokenRun> runs) {
    auto buffer = ring_->Acquire(runs, MonotonicTime());
    EXPECT_TRUE(buffer.has_value());
    return buffer.has_value() ? *buffer : nullptr;
  }
  static Ticket TicketOf(const StagingBuffer& buffer) { return Ticket(buffer.ticket.load()); }

  std::unique_ptr<StagingRing> ring_ = *StagingRing::Create(SmallOptions());
  const std::vector<TokenId> tokens_ = {5, 6, 7};
  const TokenRun run_{.tokens = tokens_};
};

class RecordingObserver final : public StagingMemoryObserver {
 public:
  void Mapped(std::span<std::byte> memory) override { mapped = memory; }
  void Unmapping(std::span<std::byte> memory) override {
    // Still there: a GPU's driver takes its hold off now.
    memory.front() = std::byte{1};
    unmapped = memory;
  }
  std::span<std::byte> mapped, unmapped;
};

TEST(StagingRingObserverTest, KnowsTheMemoryOfEveryBufferWhileItIsMapped) {
  RecordingObserver observer;
  StagingRing::Options options = SmallOptions();
  options.observer = &observer;
  auto ring = *StagingRing::Create(options);
  for (uint32_t i = 0; i < options.buffer_count; ++i) {
    const std::byte* begin = ring->buffer(i).rows(0);
    const std::byte* end = ring->buffer(i).rows(options.layer_count - 1) +
                           size_t{options.tokens_max} * 3 * options.row_bytes;
    EXPECT_GE(begin, observer.mapped.data());
    EXPECT_LE(end, observer.mapped.data() + observer.mapped.size());
  }
  EXPECT_TRUE(observer.unmapped.empty());
  ring.reset();
  EXPECT_EQ(observer.unmapped.data(), observer.mapped.data());
  EXPECT_EQ(observer.unmapped.size(), observer.mapped.size());
}

TEST_F(StagingRingTest, BatchIsCopiedWithTheLookBackThatCounts) {
  std::vector<TokenId> history = {1, 2, 3, 4};
  std::vector<TokenId> tokens = {8, 9};
  std::vector<uint8_t> history_dead = {0, 1, 0, 0};
  std::vector<uint8_t> dead = {0, 7};
  const TokenRun runs[] = {
      run_,
      TokenRun{},
      {.history = history, .tokens = tokens, .history_dead = history_dead, .tokens_dead = dead}};
  StagingBuffer* buffer = Acquire(runs);
  history.assign(4, -1);
  tokens.assign(2, -1);
  ASSERT_EQ(buffer->runs.size(), 2u);
  EXPECT_EQ(buffer->token_count, 5u);
  EXPECT_THAT(buffer->runs[0].tokens, ElementsAre(5, 6, 7));
  EXPECT_TRUE(buffer->runs[0].history.empty());
  EXPECT_TRUE(buffer->runs[0].tokens_dead.empty());
  EXPECT_THAT(buffer->runs[1].tokens, ElementsAre(8, 9));
  EXPECT_THAT(buffer->runs[1].history, ElementsAre(2, 3, 4));
  EXPECT_THAT(buffer->runs[1].history_dead, ElementsAre(1, 0, 0));
  EXPECT_THAT(buffer->dead, ElementsAre(0, 0, 0, 0, 1));
}

TEST_F(StagingRingTest, LayersAndBuffersDoNotOverlap) {
  StagingBuffer* first = Acquire({&run_, 1});
  StagingBuffer* second = Acquire({&run_, 1});
  const std::ptrdiff_t layer_bytes = 8 * 3 * 264;
  EXPECT_EQ(first->rows(1) - first->rows(0), layer_bytes);
  EXPECT_GE(std::abs(second->rows(0) - first->rows(0)), 2 * layer_bytes);
}

TEST_F(StagingRingTest, TicketsAreNeverReusedThoughBuffersAre) {
  StagingBuffer* buffer = Acquire({&run_, 1});
  const Ticket first = TicketOf(*buffer);
  ring_->DropPart(*buffer);
  ring_->DropPart(*buffer);
  EXPECT_FALSE(ring_->Release(*buffer));
  EXPECT_EQ(ring_->Find(first), nullptr);
  StagingBuffer* again = Acquire({&run_, 1});
  EXPECT_EQ(again, buffer);
  EXPECT_NE(TicketOf(*again), first);
  EXPECT_EQ(ring_->Find(TicketOf(*again)), again);
  EXPECT_EQ(ring_->Find(first), nullptr);
  EXPECT_EQ(ring_->Find(Ticket(0)), nullptr);
  EXPECT_EQ(ring_->Find(Ticket(0xffff)), nullptr);
}

TEST_F(StagingRingTest, BufferIsNotReusedWhileAPartIsFilled) {
  StagingBuffer* first = Acquire({&run_, 1});
  StagingBuffer* second = Acquire({&run_, 1});
  ring_->DropPart(*first);
  EXPECT_TRUE(ring_->Release(*first));
  const auto refused = ring_->Acquire({&run_, 1}, MonotonicTime());
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kResourceExhausted);
  ring_->DropPart(*first);
  EXPECT_EQ(Acquire({&run_, 1}), first);
  EXPECT_NE(first, second);
}

TEST_F(StagingRingTest, AcquireWaitsForAReleasedBufferThatIsBeingDropped) {
  StagingBuffer* first = Acquire({&run_, 1});
  Acquire({&run_, 1});
  EXPECT_TRUE(ring_->Release(*first));
  std::thread filler([&] {
    ring_->DropPart(*first);
    ring_->DropPart(*first);
  });
  EXPECT_EQ(Acquire({&run_, 1}), first);
  filler.join();
}

TEST_F(StagingRingTest, LayerIsReadyWhenEveryPartIs) {
  StagingBuffer* buffer = Acquire({&run_, 1});
  const MonotonicTime now = SteadyClock().Now();
  StagingRing::FinishPart(*buffer, 1, now);
  EXPECT_FALSE(StagingRing::Ready(*buffer, 1));
  std::thread other([&] { StagingRing::FinishPart(*buffer, 1, now); });
  StagingRing::WaitReady(*buffer, 1);
  other.join();
  EXPECT_TRUE(StagingRing::Ready(*buffer, 1));
  EXPECT_FALSE(StagingRing::Ready(*buffer, 0));
  EXPECT_TRUE(StagingRing::LayerStatus(*buffer, 1).ok());
}

TEST_F(StagingRingTest, FirstFailureOfALayerIsKept) {
  StagingBuffer* buffer = Acquire({&run_, 1});
  const MonotonicTime now = SteadyClock().Now();
  StagingRing::FinishPart(*buffer, 0, now, Status(StatusCode::kCorrupt, "first"));
  StagingRing::FinishPart(*buffer, 0, now, Status(StatusCode::kUnavailable, "second"));
  EXPECT_EQ(StagingRing::LayerStatus(*buffer, 0).message(), "first");
  EXPECT_TRUE(StagingRing::LayerStatus(*buffer, 1).ok());
}

TEST_F(StagingRingTest, EarliestKnownAndLatestReadyTimesCount) {
  StagingBuffer* buffer = Acquire({&run_, 1});
  const MonotonicTime begin{std::chrono::seconds(5)};
  StagingRing::NoteIdsKnown(*buffer, 0, begin + std::chrono::microseconds(2));
  StagingRing::NoteIdsKnown(*buffer, 0, begin);
  StagingRing::FinishPart(*buffer, 0, begin + std::chrono::microseconds(9));
  StagingRing::FinishPart(*buffer, 0, begin + std::chrono::microseconds(7));
  const StagingBuffer::Layer& layer = buffer->layers[0];
  EXPECT_EQ(layer.ready_ns.load() - layer.ids_known_ns.load(), 9000);
}

TEST_F(StagingRingTest, EmptyAndOversizedBatchesAreRefused) {
  const std::vector<TokenId> nine(9, 1);
  const TokenRun big{.tokens = nine};
  const TokenRun empty;
  for (const TokenRun* run : {&big, &empty}) {
    const auto refused = ring_->Acquire({run, 1}, MonotonicTime());
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
  }
}

TEST(StagingRingCreateTest, ZeroSizesAreRefused) {
  StagingRing::Options options = SmallOptions();
  options.tokens_max = 0;
  EXPECT_EQ(StagingRing::Create(options).error().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
