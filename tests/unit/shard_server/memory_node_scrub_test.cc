// A memory node that finds damaged rows in its slots, and repairs them.
#include <algorithm>
#include <atomic>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/shard_server/copying_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::SlotList;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr TableVersion kVersion = test::kCopiedVersion;
constexpr SlotIndex kDamaged{4};

class MemoryNodeScrubTest : public test::CopyingNodeTest {
 protected:
  MemoryNodeScrubTest() {
    load_ = [this](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) {
      return LoadSourceRows(job, control, on_loaded);
    };
  }
  // Every slot comes from the source, is whole, and is held under assignment 1.
  void Start(uint64_t scrub_bytes_per_s_max, Duration source_wait, uint64_t memory_bytes = 64 << 20,
             uint32_t slots = 8) {
    MemoryNode::Options options = Options();
    options.store.memory_bytes_max = memory_bytes;
    options.scrub_bytes_per_s_max = scrub_bytes_per_s_max;
    options.scrub_pass_min = milliseconds(5);
    options.source_wait = source_wait;
    node_.reset();
    Make(options);
    slots_ = SlotList(0, slots);
    node_->Apply(Assignment(1, slots_, {0, 2}));
    ASSERT_TRUE(RunUntilComplete(1));
    loaded_ = 0;
  }
  // The coordinator's answer: damage is named, and has a source or comes from the checkpoint.
  void Name(uint64_t revision, uint32_t source) {
    SlotAssignment assignment = Assignment(revision, slots_, {source, 1});
    assignment.damaged = {kDamaged};
    node_->Apply(std::move(assignment));
  }
  void Damage(std::initializer_list<uint32_t> rows) {
    for (const uint32_t row : rows) {
      ASSERT_TRUE(node_->FlipByte(kVersion, kDamaged, row, 1).ok());
    }
  }
  HeldVersion Held() { return node_->snapshot()->versions.at(0); }
  bool RunUntilRepaired(uint64_t rows) {
    return RunUntil([&] { return node_->snapshot()->rows_repaired == rows; });
  }

  std::vector<AssignedSlot> slots_;
};

TEST_F(MemoryNodeScrubTest, ScrubFindsTellsAndRepairsFromTheSourceOnceItIsNamed) {
  Start(1 << 30, seconds(600));
  Damage({3, 7});
  ASSERT_TRUE(RunUntil([&] { return !Held().damaged.empty(); }));
  EXPECT_THAT(Held().damaged, ElementsAre(kDamaged));
  EXPECT_EQ(Held().slots_damaged, 1u);
  EXPECT_EQ(node_->snapshot()->corrupt_rows_found, 2u);
  EXPECT_EQ(node_->snapshot()->rows_repaired, 0u);
  EXPECT_TRUE(Held().complete());  // it is served: its other rows are good
  EXPECT_NE(server_.Served(3)->Rows(kDamaged), nullptr);
  Name(2, 0);
  ASSERT_TRUE(RunUntilRepaired(2));
  EXPECT_TRUE(HasSourceRows(kDamaged.value()));
  EXPECT_EQ(loaded_, 0);
  ASSERT_TRUE(RunUntil([&] { return Held().slots_damaged == 0; }));
  EXPECT_THAT(Held().damaged, IsEmpty());
  EXPECT_EQ(node_->snapshot()->corrupt_rows_found, 2u);  // counted once, whatever the passes
  EXPECT_EQ(node_->snapshot()->reports_unconfirmed, 0u);
}

TEST_F(MemoryNodeScrubTest, NamedDamageIsToldNoMore) {
  Start(1 << 30, seconds(600));
  network_.Hold("source:1");
  Damage({3});
  ASSERT_TRUE(RunUntil([&] { return !Held().damaged.empty(); }));
  Name(2, 0);
  ASSERT_TRUE(RunUntil([&] { return Held().revision == 2; }));
  EXPECT_THAT(Held().damaged, IsEmpty());
  EXPECT_EQ(Held().slots_damaged, 1u);
  // Another assignment, that does not name it any more: it was told.
  node_->Apply(Assignment(3, slots_, {0, 2}));
  ASSERT_TRUE(RunUntil([&] { return Held().revision == 3; }));
  EXPECT_THAT(Held().damaged, IsEmpty());
}

TEST_F(MemoryNodeScrubTest, WithoutAnAnswerItIsRepairedAllTheSame) {
  Start(1 << 30, milliseconds(30));
  Damage({0});
  ASSERT_TRUE(RunUntilRepaired(1));
  EXPECT_TRUE(HasSourceRows(kDamaged.value()));
  EXPECT_EQ(loaded_, 0);
}

TEST_F(MemoryNodeScrubTest, ASourceThatFailsLeavesTheRepairToTheCheckpoint) {
  Start(1 << 30, milliseconds(0));
  network_.RefuseSessions("source:1", StatusCode::kUnavailable);
  network_.Lose("source:1");
  Damage({0, 1, 2});
  ASSERT_TRUE(RunUntilRepaired(3));
  EXPECT_TRUE(HasSourceRows(kDamaged.value()));
  EXPECT_EQ(loaded_, 1);
}

TEST_F(MemoryNodeScrubTest, AReportedSlotIsCheckedWithoutScrubAndRepairedFromTheCheckpoint) {
  Start(0, seconds(600));
  Damage({5});
  EXPECT_EQ(node_->snapshot()->corrupt_rows_found, 0u);
  Name(2, kFromCheckpoint);
  ASSERT_TRUE(RunUntilRepaired(1));
  EXPECT_TRUE(HasSourceRows(kDamaged.value()));
  EXPECT_EQ(loaded_, 1);
  EXPECT_THAT(Held().damaged, IsEmpty());
  EXPECT_EQ(node_->snapshot()->corrupt_rows_found, 1u);
}

TEST_F(MemoryNodeScrubTest, AReportThatTheCheckDoesNotConfirmChangesNothing) {
  Start(0, seconds(600));
  const std::byte* const rows = server_.Served(3)->Rows(kDamaged);
  Name(2, 0);
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->reports_unconfirmed == 1; }));
  EXPECT_EQ(server_.Served(3)->Rows(kDamaged), rows);
  EXPECT_EQ(node_->snapshot()->corrupt_rows_found, 0u);
  EXPECT_EQ(node_->snapshot()->memory.replacing_bytes, 0u);
  EXPECT_EQ(Held().slots_damaged, 0u);
}

TEST_F(MemoryNodeScrubTest, AReportDoesNotWaitForASlowScrub) {
  Start(1, seconds(600));  // a byte a second: the pass stands still
  Damage({5});
  Name(2, 0);
  ASSERT_TRUE(RunUntilRepaired(1));
}

TEST_F(MemoryNodeScrubTest, WithoutMemoryItSaysWhatToDoAndRepairsOnceThereIsSome) {
  const uint64_t piece = (layout_->slot_bytes(SlotIndex(0)) + 63) / 64 * 64;
  constexpr uint64_t kMemoryBytes = 4 * 4096;  // whole pages
  const auto full = static_cast<uint32_t>(kMemoryBytes / piece);
  Start(1 << 30, milliseconds(0), kMemoryBytes, full);
  const std::byte* const rows = server_.Served(3)->Rows(kDamaged);
  Damage({5});
  ASSERT_TRUE(RunUntilError(StatusCode::kResourceExhausted));
  EXPECT_THAT(Held().error.message(), HasSubstr("Raise --memory by"));
  EXPECT_THAT(Held().damaged, ElementsAre(kDamaged));
  EXPECT_EQ(server_.Served(3)->Rows(kDamaged), rows);
  // A slot moves away: there is memory.
  slots_ = SlotList(1, full);
  Name(2, 0);
  ASSERT_TRUE(RunUntilRepaired(1));
  ASSERT_TRUE(RunUntilComplete(2));
  EXPECT_TRUE(HasSourceRows(kDamaged.value()));
}

TEST_F(MemoryNodeScrubTest, ADamagedSlotThatIsTakenAwayIsForgotten) {
  Start(1 << 30, seconds(600));
  server_.acknowledged = Epoch(0);  // it is served on
  Damage({5});
  ASSERT_TRUE(RunUntil([&] { return !Held().damaged.empty(); }));
  slots_ = SlotList(0, 4);
  node_->Apply(Assignment(2, slots_, {0, 2}));
  ASSERT_TRUE(RunUntilComplete(2));
  EXPECT_EQ(Held().slots_damaged, 0u);
  EXPECT_EQ(node_->snapshot()->memory.replacing_bytes, 0u);
}

TEST_F(MemoryNodeScrubTest, PassesAreCountedAndNewSlotsAreInTheNext) {
  Start(1 << 30, seconds(600));
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->scrub_passes >= 2; }));
  EXPECT_GE(node_->snapshot()->bytes_scrubbed, 2 * Held().bytes_ready);
  EXPECT_EQ(node_->snapshot()->corrupt_rows_found, 0u);
  EXPECT_GT(node_->snapshot()->scrub_last_pass, Duration(0));
  slots_ = SlotList(0, 12);
  node_->Apply(Assignment(2, slots_, {0, 2}));
  ASSERT_TRUE(RunUntilComplete(2));
  ASSERT_TRUE(node_->FlipByte(kVersion, SlotIndex(11), 0, 0).ok());
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->corrupt_rows_found == 1; }));
}

TEST_F(MemoryNodeScrubTest, DroppedVersionOrNodeEndsItsCheck) {
  Start(1, seconds(600));
  node_->Drop(kVersion);
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->memory.waiting_bytes == 0; }));
  node_->Apply(Assignment(2, slots_, {0, 2}));
  ASSERT_TRUE(RunUntilComplete(2));
  node_.reset();
  io_.restart();
  io_.run();  // what was still queued does nothing
}

}  // namespace
}  // namespace engram
