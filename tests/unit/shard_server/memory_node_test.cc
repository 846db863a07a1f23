#include "shard_server/memory_node.h"

#include <atomic>
#include <functional>
#include <thread>

#include <boost/asio/io_context.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::RecordingRowServer;
using test::SlotList;
using testing::HasSubstr;

// The node on this thread's io_context; loads are scripted by `load_`.
class MemoryNodeTest : public testing::Test {
 protected:
  static constexpr TableVersion kVersion{3};

  MemoryNodeTest() { Make(64 << 20); }

  void Make(uint64_t memory_bytes_max) {
    MemoryNode::Options options;
    options.store.memory_bytes_max = memory_bytes_max;
    options.retry_min = milliseconds(20);
    options.retry_max = milliseconds(40);
    options.load_function = [this](const LoadJob& job, const LoadOptions&, LoadControl* control,
                                   const OnSlotLoaded& on_loaded) {
      ++loads_;
      return load_(job, control, on_loaded);
    };
    node_ = std::make_unique<MemoryNode>(io_.get_executor(), &server_, options);
  }

  static Status LoadAll(const LoadJob& job, LoadControl*, const OnSlotLoaded& on_loaded) {
    for (const EmptySlot& slot : job.slots) on_loaded(slot, 100 + slot.slot.value());
    return {};
  }
  static Status WaitForCancel(const LoadJob&, LoadControl* control, const OnSlotLoaded&) {
    while (!control->cancelled()) std::this_thread::sleep_for(milliseconds(1));
    return {StatusCode::kCancelled, "cancelled"};
  }

  SlotAssignment Assignment(uint64_t revision, std::vector<AssignedSlot> slots) {
    SlotAssignment assignment;
    assignment.version = kVersion;
    assignment.revision = revision;
    assignment.newest_epoch = Epoch(revision * 10);
    assignment.spec = test::SmallSpec();
    assignment.identity = test::SmallIdentity();
    assignment.checkpoint = "scripted";
    assignment.slots = std::move(slots);
    return assignment;
  }

  // Runs the node until `done`; false after long.
  bool RunUntil(const std::function<bool()>& done) {
    const auto until = std::chrono::steady_clock::now() + seconds(20);
    while (!done()) {
      if (std::chrono::steady_clock::now() > until) return false;
      io_.restart();
      io_.run_for(milliseconds(2));
    }
    return true;
  }
  bool RunUntilComplete(uint64_t revision) {
    return RunUntil([&] {
      const auto snapshot = node_->snapshot();
      return snapshot->versions.size() == 1 && snapshot->versions[0].revision == revision &&
             snapshot->versions[0].complete();
    });
  }
  bool RunUntilError(StatusCode code) {
    return RunUntil([&] {
      const auto snapshot = node_->snapshot();
      return snapshot->versions.size() == 1 && snapshot->versions[0].error.code() == code;
    });
  }

  RecordingRowServer server_;
  boost::asio::io_context io_{1};
  std::function<Status(const LoadJob&, LoadControl*, const OnSlotLoaded&)> load_ = LoadAll;
  std::atomic<int> loads_{0};
  std::unique_ptr<MemoryNode> node_;
};

TEST_F(MemoryNodeTest, AssignedSlotsAreLoadedAndToldWithTheirDigests) {
  node_->Apply(Assignment(1, SlotList(2, 4)));
  ASSERT_TRUE(RunUntilComplete(1));
  const HeldVersion held = node_->snapshot()->versions[0];
  EXPECT_EQ(*held.ready, (std::vector<AssignedSlot>{{SlotIndex(2), 102}, {SlotIndex(3), 103}}));
  EXPECT_EQ(held.bytes_ready, held.bytes_total);
  EXPECT_NE(server_.Served(3)->Rows(SlotIndex(2)), nullptr);
  EXPECT_EQ(server_.Served(3)->newest_epoch(), Epoch(10));
}

TEST_F(MemoryNodeTest, GrownAssignmentLoadsOnlyWhatIsNew) {
  node_->Apply(Assignment(1, SlotList(0, 4)));
  ASSERT_TRUE(RunUntilComplete(1));
  std::atomic<size_t> asked{0};
  load_ = [&](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) {
    asked = job.slots.size();
    return LoadAll(job, control, on_loaded);
  };
  node_->Apply(Assignment(2, SlotList(0, 6)));
  ASSERT_TRUE(RunUntilComplete(2));
  EXPECT_EQ(asked, 2u);
}

TEST_F(MemoryNodeTest, SlotsAddedDuringALoadAreLoadedAfterIt) {
  std::atomic<bool> go{false};
  load_ = [&](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) {
    while (!go) std::this_thread::sleep_for(milliseconds(1));
    return LoadAll(job, control, on_loaded);
  };
  node_->Apply(Assignment(1, SlotList(0, 4)));
  node_->Apply(Assignment(2, SlotList(2, 6)));
  go = true;
  ASSERT_TRUE(RunUntilComplete(2));
  EXPECT_EQ(loads_, 2);
  EXPECT_EQ(server_.Served(3)->Rows(SlotIndex(0)), nullptr);
  EXPECT_NE(server_.Served(3)->Rows(SlotIndex(5)), nullptr);
}

TEST_F(MemoryNodeTest, FailedLoadKeepsWhatWasCompleteTellsWhyAndIsTriedAgain) {
  std::atomic<bool> fail{true};
  load_ = [&](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) -> Status {
    if (!fail) return LoadAll(job, control, on_loaded);
    on_loaded(job.slots[0], 100);
    return {StatusCode::kIo, "the folder is not mounted"};
  };
  node_->Apply(Assignment(1, SlotList(0, 3)));
  ASSERT_TRUE(RunUntilError(StatusCode::kIo));
  const HeldVersion held = node_->snapshot()->versions[0];
  EXPECT_EQ(held.ready->size(), 1u);
  EXPECT_THAT(held.error.message(), HasSubstr("not mounted"));
  EXPECT_FALSE(held.complete());
  fail = false;
  ASSERT_TRUE(RunUntilComplete(1));
  EXPECT_GE(node_->snapshot()->loads_failed, 1u);
}

TEST_F(MemoryNodeTest, AssignmentThatDoesNotFitIsRefusedBeforeAnythingIsLoaded) {
  Make(100000);
  node_->Apply(Assignment(1, SlotList(0, test::SmallLayout()->slot_count())));
  ASSERT_TRUE(RunUntilError(StatusCode::kResourceExhausted));
  EXPECT_THAT(node_->snapshot()->versions[0].error.message(), HasSubstr("--memory"));
  EXPECT_EQ(loads_, 0);
  EXPECT_TRUE(server_.region_sizes.empty());
  EXPECT_EQ(server_.Served(3), nullptr);
  node_->Apply(Assignment(2, SlotList(0, 4)));
  EXPECT_TRUE(RunUntilComplete(2));
}

TEST_F(MemoryNodeTest, NodeThatIsFullButForLeavingSlotsWaitsForThemAndSaysSo) {
  const uint64_t slot_bytes = (test::SmallLayout()->slot_bytes(SlotIndex(0)) + 63) / 64 * 64;
  constexpr uint32_t kMemoryBytes = 4 * 4096;
  const auto full = static_cast<uint32_t>(kMemoryBytes / slot_bytes);
  Make(kMemoryBytes);
  node_->Apply(Assignment(1, SlotList(0, full)));
  ASSERT_TRUE(RunUntilComplete(1));
  server_.acknowledged = Epoch(10);  // the second assignment is of epoch 20
  node_->Apply(Assignment(2, SlotList(3, full + 3)));
  ASSERT_TRUE(RunUntil([&] {
    const auto snapshot = node_->snapshot();
    return snapshot->versions[0].revision == 2 && snapshot->versions[0].slots_unplaced > 0;
  }));
  const auto snapshot = node_->snapshot();
  EXPECT_TRUE(snapshot->versions[0].error.ok());
  EXPECT_FALSE(snapshot->versions[0].complete());
  EXPECT_GT(snapshot->memory.leaving_bytes, 0u);
  EXPECT_NE(server_.Served(3)->Rows(SlotIndex(0)), nullptr);
  server_.acknowledged = Epoch(20);
  ASSERT_TRUE(RunUntilComplete(2));
  EXPECT_EQ(node_->snapshot()->versions[0].slots_unplaced, 0u);
  EXPECT_EQ(server_.Served(3)->Rows(SlotIndex(0)), nullptr);
}

TEST_F(MemoryNodeTest, DroppedVersionEndsItsLoadAndIsServedNoLonger) {
  load_ = WaitForCancel;
  node_->Apply(Assignment(1, SlotList(0, 4)));
  node_->Drop(kVersion);
  EXPECT_EQ(server_.Served(3), nullptr);
  ASSERT_TRUE(RunUntil([&] { return !node_->snapshot()->loading; }));
  EXPECT_TRUE(node_->snapshot()->versions.empty());
  EXPECT_EQ(node_->snapshot()->loads_failed, 0u);
}

TEST_F(MemoryNodeTest, VersionThatComesBackWhileItsOldLoadEndsIsLoadedAfresh) {
  load_ = [&](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) {
    return loads_ == 1 ? WaitForCancel(job, control, on_loaded) : LoadAll(job, control, on_loaded);
  };
  node_->Apply(Assignment(1, SlotList(0, 4)));
  node_->Drop(kVersion);
  node_->Apply(Assignment(5, SlotList(1, 3)));
  ASSERT_TRUE(RunUntilComplete(5));
  EXPECT_NE(server_.Served(3)->Rows(SlotIndex(1)), nullptr);
}

TEST_F(MemoryNodeTest, AssignmentThatChangesTheSpecOfAVersionIsRefused) {
  node_->Apply(Assignment(1, SlotList(0, 2)));
  ASSERT_TRUE(RunUntilComplete(1));
  SlotAssignment other = Assignment(2, SlotList(0, 2));
  other.identity[0] ^= 1;
  node_->Apply(std::move(other));
  ASSERT_TRUE(RunUntilError(StatusCode::kInvalidArgument));
  EXPECT_EQ(node_->snapshot()->versions[0].revision, 2u);
  EXPECT_NE(server_.Served(3)->Rows(SlotIndex(0)), nullptr);
}

TEST_F(MemoryNodeTest, OtherDigestRecordedLaterWithdrawsTheSlotAndSaysSo) {
  node_->Apply(Assignment(1, SlotList(0, 2)));
  ASSERT_TRUE(RunUntilComplete(1));
  node_->Apply(Assignment(2, {{SlotIndex(0), 100}, {SlotIndex(1), 55}}));
  ASSERT_TRUE(RunUntilError(StatusCode::kCorrupt));
  EXPECT_EQ(server_.Served(3)->Rows(SlotIndex(1)), nullptr);
  EXPECT_EQ(node_->snapshot()->versions[0].ready->size(), 1u);
}

TEST_F(MemoryNodeTest, NodeThatGoesAwayDuringALoadCancelsIt) {
  load_ = WaitForCancel;
  node_->Apply(Assignment(1, SlotList(0, 4)));
  node_.reset();
  io_.restart();
  io_.run();  // what was still queued does nothing
}

}  // namespace
}  // namespace engram
