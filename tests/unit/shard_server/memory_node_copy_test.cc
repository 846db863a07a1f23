// A memory node that copies slots from another one over the loopback network.
#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "tests/unit/shard_server/copying_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using test::SlotList;

constexpr TableVersion kVersion = test::kCopiedVersion;

using MemoryNodeCopyTest = test::CopyingNodeTest;

TEST_F(MemoryNodeCopyTest, SlotsWithASourceAreCopiedAndServedWithTheirDigests) {
  node_->Apply(Assignment(1, SlotList(2, 40), {0, 2}));
  ASSERT_TRUE(RunUntilComplete(1));
  EXPECT_EQ(loaded_, 0);
  for (uint32_t slot = 2; slot < 40; ++slot) ASSERT_TRUE(HasSourceRows(slot)) << slot;
  const auto snapshot = node_->snapshot();
  const AssignedSlot first = snapshot->versions[0].ready->at(0);
  EXPECT_EQ(first.digest,
            DigestOfRows({source_slots_->Rows(SlotIndex(2)), layout_->slot_bytes(SlotIndex(2))}));
  EXPECT_EQ(snapshot->slots_copied, 38u);
  EXPECT_EQ(snapshot->bytes_copied, snapshot->versions[0].bytes_total);
  EXPECT_EQ(snapshot->copy_bytes_per_s, 0u);
}

TEST_F(MemoryNodeCopyTest, SlotsThatTheSourceDoesNotGiveComeFromTheCheckpoint) {
  source_slots_->Withdraw(SlotIndex(5));
  network_.CorruptRows("source:1", 1);
  node_->Apply(Assignment(1, SlotList(2, 8), {0, 2}));
  ASSERT_TRUE(RunUntilComplete(1));
  EXPECT_EQ(loaded_, 2);
  EXPECT_EQ(node_->snapshot()->slots_copied, 4u);
  EXPECT_EQ(node_->snapshot()->slots_not_copied, 2u);
}

TEST_F(MemoryNodeCopyTest, LostSourceLeavesTheRestToTheCheckpoint) {
  network_.Lose("source:1");
  node_->Apply(Assignment(1, SlotList(2, 30), {0, 1}));
  ASSERT_TRUE(RunUntilComplete(1));
  EXPECT_EQ(loaded_, 28);
  EXPECT_EQ(node_->snapshot()->slots_copied, 0u);
}

TEST_F(MemoryNodeCopyTest, CheckpointThatFailsTooHasTheSourceTriedAgain) {
  load_ = [](const LoadJob&, LoadControl*, const OnSlotLoaded&) {
    return Status(StatusCode::kIo, "not mounted");
  };
  network_.RefuseSessions("source:1", StatusCode::kUnavailable);
  node_->Apply(Assignment(1, SlotList(2, 4), {0, 1}));
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->loads_failed > 0; }));
  network_.RefuseSessions("source:1", StatusCode::kOk);
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->slots_copied == 2; }));
  EXPECT_TRUE(HasSourceRows(3));
  ASSERT_TRUE(RunUntilComplete(1));
}

TEST_F(MemoryNodeCopyTest, NothingElseStartsWhileSlotsWithoutAReplicaAreLoaded) {
  std::atomic<bool> go{false};
  load_ = [&](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) {
    while (!go && !control->cancelled()) std::this_thread::sleep_for(milliseconds(1));
    return LoadAll(job, control, on_loaded);
  };
  SlotAssignment assignment = Assignment(1, SlotList(0, 6), {0, 2});
  assignment.origins[0] = {kFromCheckpoint, 0};
  node_->Apply(std::move(assignment));
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->loading; }));
  EXPECT_FALSE(RunUntil([n = 0]() mutable { return ++n > 40; }) &&
               node_->snapshot()->slots_copied > 0);
  go = true;
  ASSERT_TRUE(RunUntilComplete(1));
  EXPECT_EQ(loaded_, 1);
  EXPECT_EQ(node_->snapshot()->slots_copied, 5u);
}

TEST_F(MemoryNodeCopyTest, CopyGivesWayToALowerRankAndThenGoesOn) {
  node_->SetCopyRateMax(1);  // the first read goes, the next in hours
  node_->Apply(Assignment(1, SlotList(0, 6), {0, 2}));
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->bytes_copied > 0; }));
  SlotAssignment assignment = Assignment(2, SlotList(0, 8), {0, 2});
  assignment.origins[6].rank = 1;
  node_->Apply(std::move(assignment));
  node_->SetCopyRateMax(0);
  ASSERT_TRUE(RunUntilComplete(2));
  const auto ready = *node_->snapshot()->versions[0].ready;
  EXPECT_EQ(ready.size(), 8u);
  EXPECT_EQ(loaded_, 0);
}

TEST_F(MemoryNodeCopyTest, SlotTakenAwayWhileItIsCopiedIsNotServedAndTheOthersAreKept) {
  network_.SetDelay("source:1", milliseconds(100));
  node_->Apply(Assignment(1, SlotList(0, 6), {0, 2}));
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->loading; }));
  node_->Apply(Assignment(2, SlotList(3, 6), {0, 2}));
  ASSERT_TRUE(RunUntilComplete(2));
  EXPECT_EQ(server_.Served(3)->Rows(SlotIndex(0)), nullptr);
  EXPECT_TRUE(HasSourceRows(4));
  EXPECT_LE(node_->snapshot()->slots_copied, 6u);
}

TEST_F(MemoryNodeCopyTest, DroppedVersionOrNodeEndsItsCopy) {
  network_.Hold("source:1");
  node_->Apply(Assignment(1, SlotList(0, 4), {0, 2}));
  node_->Drop(kVersion);
  ASSERT_TRUE(RunUntil([&] { return !node_->snapshot()->loading; }));
  node_->Apply(Assignment(2, SlotList(0, 4), {0, 2}));
  node_.reset();
  io_.restart();
  io_.run();  // what was still queued does nothing
}

TEST_F(MemoryNodeCopyTest, CopyRateShowsWhileRowsCome) {
  node_->SetCopyRateMax(200'000);
  node_->Apply(Assignment(1, SlotList(0, layout_->slot_count()), {0, 2}));
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->copy_bytes_per_s > 0; }));
  EXPECT_EQ(node_->snapshot()->copy_bytes_per_s_max, 200'000u);
  node_->SetCopyRateMax(0);
  ASSERT_TRUE(RunUntilComplete(1));
  EXPECT_EQ(node_->snapshot()->copy_bytes_per_s, 0u);
}

}  // namespace
}  // namespace engram
