// A memory node that copies slots from another one over the loopback network.
#include <atomic>
#include <functional>
#include <thread>

#include <boost/asio/io_context.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/table/stored_row.h"
#include "engram/transport/loopback/loopback_network.h"
#include "shard_server/memory_node.h"
#include "shard_server/slot_memory.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::SlotList;

constexpr TableVersion kVersion{3};
constexpr Incarnation kSourceIncarnation{11};

// The node on this thread's io_context; loads from checkpoints are scripted by `load_`.
class MemoryNodeCopyTest : public testing::Test {
 protected:
  MemoryNodeCopyTest() {
    source_ = network_.CreateServer("source:1", kSourceIncarnation);
    Fill();
    MemoryNode::Options options;
    options.store.memory_bytes_max = 64 << 20;
    options.retry_min = milliseconds(20);
    options.retry_max = milliseconds(40);
    options.copy.stall_max = milliseconds(500);
    options.copy_slots_max = 8;
    options.load_function = [this](const LoadJob& job, const LoadOptions&, LoadControl* control,
                                   const OnSlotLoaded& on_loaded) {
      return load_(job, control, on_loaded);
    };
    options.make_transport = [this]() -> Result<std::unique_ptr<Transport>> {
      return network_.CreateTransport();
    };
    node_ = std::make_unique<MemoryNode>(io_.get_executor(), &server_, options);
  }

  // Every row of the source: sealed, and each different.
  void Fill() {
    const Region region = source_->AllocateRegion(layout_->total_bytes()).value();
    source_slots_ = std::make_shared<ServedSlots>(kVersion, test::SmallIdentity(), layout_);
    uint64_t offset = 0;
    for (uint32_t s = 0; s < layout_->slot_count(); ++s) {
      const SlotRange& slot = layout_->slot(SlotIndex(s));
      std::byte* const rows = region.bytes.data() + offset;
      for (uint32_t r = 0; r < slot.row_count; ++r) {
        std::byte* const row = rows + size_t{r} * layout_->row_stride();
        std::fill(row, row + layout_->row_bytes(), static_cast<std::byte>(s * 31 + r));
        SealRow(kVersion, layout_->spec().hash.layer_ids[static_cast<size_t>(slot.layer_index)],
                RowId(slot.first_row.value() + r), row, layout_->row_bytes());
      }
      source_slots_->Publish(SlotIndex(s), rows, {region.number, offset});
      offset += layout_->slot_bytes(SlotIndex(s));
    }
    source_->Serve(source_slots_);
  }

  SlotAssignment Assignment(uint64_t revision, std::vector<AssignedSlot> slots,
                            SlotOrigin origin) const {
    SlotAssignment assignment;
    assignment.version = kVersion;
    assignment.revision = revision;
    assignment.newest_epoch = Epoch(revision);
    assignment.spec = test::SmallSpec();
    assignment.identity = test::SmallIdentity();
    assignment.checkpoint = "scripted";
    assignment.slots = std::move(slots);
    assignment.sources = {{"m1", "source:1", kSourceIncarnation}};
    assignment.origins.assign(assignment.slots.size(), origin);
    return assignment;
  }
  Status LoadAll(const LoadJob& job, LoadControl*, const OnSlotLoaded& on_loaded) {
    for (const EmptySlot& slot : job.slots) {
      ++loaded_;
      on_loaded(slot, 100 + slot.slot.value());
    }
    return {};
  }
  static Status WaitForCancel(const LoadJob&, LoadControl* control, const OnSlotLoaded&) {
    while (!control->cancelled()) std::this_thread::sleep_for(milliseconds(1));
    return {StatusCode::kCancelled, "cancelled"};
  }
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
             snapshot->versions[0].complete() && !snapshot->loading;
    });
  }
  bool HasSourceRows(uint32_t slot) {
    const std::byte* const rows = server_.Served(3)->Rows(SlotIndex(slot));
    return rows != nullptr && std::equal(rows, rows + layout_->slot_bytes(SlotIndex(slot)),
                                         source_slots_->Rows(SlotIndex(slot)));
  }

  LoopbackNetwork network_;
  std::shared_ptr<const TableLayout> layout_ = test::SmallLayout();
  std::unique_ptr<RowServer> source_;
  std::shared_ptr<ServedSlots> source_slots_;
  test::RecordingRowServer server_;
  boost::asio::io_context io_{1};
  std::atomic<int> loaded_{0};  // from the "checkpoint"
  std::function<Status(const LoadJob&, LoadControl*, const OnSlotLoaded&)> load_ =
      [this](const LoadJob& job, LoadControl* control, const OnSlotLoaded& on_loaded) {
        return LoadAll(job, control, on_loaded);
      };
  std::unique_ptr<MemoryNode> node_;
};

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
