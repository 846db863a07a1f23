#include "shard_server/slot_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using test::RecordingRowServer;
using test::SlotList;
using testing::HasSubstr;

class SlotStoreTest : public testing::Test {
 protected:
  static constexpr TableVersion kVersion{7};

  SlotStore MakeStore(uint64_t memory_bytes_max) {
    SlotStore::Options options;
    options.memory_bytes_max = memory_bytes_max;
    options.release_patience = milliseconds(30000);
    return SlotStore(&server_, &clock_, options);
  }
  SlotStore StoreWithVersion(uint64_t memory_bytes_max = 64 << 20) {
    SlotStore store = MakeStore(memory_bytes_max);
    EXPECT_TRUE(store.AddVersion(kVersion, test::SmallIdentity(), layout_).ok());
    return store;
  }
  // Publishes every empty slot with a digest of 100 + its number.
  static void LoadAll(SlotStore* store, TableVersion version = kVersion) {
    for (const EmptySlot& slot : store->IdleSlots(version)) {
      EXPECT_TRUE(store->Publish(version, slot.slot, slot.rows, 100 + slot.slot.value()).ok());
    }
  }

  RecordingRowServer server_;
  ManualClock clock_;
  std::shared_ptr<const TableLayout> layout_ = test::SmallLayout();
};

TEST_F(SlotStoreTest, SlotIsServedOnlyOncePublished) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(3, 5)).ok());
  const auto served = server_.Served(7);
  ASSERT_NE(served, nullptr);
  EXPECT_EQ(served->Rows(SlotIndex(3)), nullptr);
  const auto empty = store.IdleSlots(kVersion);
  ASSERT_EQ(empty.size(), 2u);
  ASSERT_TRUE(store.Publish(kVersion, SlotIndex(3), empty[0].rows, 9).ok());
  EXPECT_EQ(served->Rows(SlotIndex(3)), empty[0].rows);
  EXPECT_EQ(served->Rows(SlotIndex(4)), nullptr);
  EXPECT_EQ(store.ReadySlots(kVersion), (std::vector<AssignedSlot>{{SlotIndex(3), 9}}));
  EXPECT_EQ(store.ReadyBytes(kVersion), layout_->slot_bytes(SlotIndex(3)));
  EXPECT_EQ(store.HeldBytes(kVersion),
            layout_->slot_bytes(SlotIndex(3)) + layout_->slot_bytes(SlotIndex(4)));
}

TEST_F(SlotStoreTest, AssignmentOverTheLimitIsRefusedAndLeavesTheSlotsAsTheyWere) {
  SlotStore store = StoreWithVersion(layout_->total_bytes() / 2);
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 4)).ok());
  LoadAll(&store);
  const SlotStoreFigures before = store.figures();
  const Status status = store.SetSlots(kVersion, SlotList(0, layout_->slot_count()));
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("version 7: no room for"));
  EXPECT_EQ(store.ReadySlots(kVersion).size(), 4u);
  EXPECT_EQ(store.EmptyCount(kVersion), 0u);
  EXPECT_EQ(store.figures().region_bytes, before.region_bytes);
  EXPECT_NE(server_.Served(7)->Rows(SlotIndex(2)), nullptr);
}

TEST_F(SlotStoreTest, MemoryOfAWholeTableIsUnderOnePointZeroFiveOfItsRowBytes) {
  SlotStore store = MakeStore(1 << 30);
  const auto layout = test::SmallLayout(100000);
  ASSERT_TRUE(store.AddVersion(kVersion, test::SmallIdentity(), layout).ok());
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, layout->slot_count())).ok());
  // Rows here are 66 + 4 bytes; the released model's are 264 + 4. What the store adds to the stored
  // rows themselves is under a thousandth.
  EXPECT_LE(static_cast<double>(store.figures().region_bytes),
            1.001 * static_cast<double>(layout->total_bytes()));
  EXPECT_EQ(store.figures().regions, 1u);
}

TEST_F(SlotStoreTest, GrownAssignmentKeepsReadySlotsInPlace) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 8, 2)).ok());
  LoadAll(&store);
  const std::byte* rows = server_.Served(7)->Rows(SlotIndex(4));
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 8)).ok());
  EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(4)), rows);
  EXPECT_EQ(store.ReadySlots(kVersion).size(), 4u);
  EXPECT_EQ(store.EmptyCount(kVersion), 4u);
}

TEST_F(SlotStoreTest, LeavingSlotIsServedUntilEveryReaderAcknowledgedTheEpochThatTookIt) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 4)).ok());
  LoadAll(&store);
  server_.acknowledged = Epoch(4);
  server_.reusable = 0;
  store.SetNewestEpoch(kVersion, Epoch(5));
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 1)).ok());
  store.Reclaim();
  EXPECT_NE(server_.Served(7)->Rows(SlotIndex(1)), nullptr);
  EXPECT_EQ(store.ReadySlots(kVersion).size(), 1u);
  EXPECT_EQ(store.figures().leaving_bytes, 3 * layout_->slot_bytes(SlotIndex(1)));
  EXPECT_TRUE(server_.releases.empty());

  server_.acknowledged = Epoch(5);
  EXPECT_TRUE(store.Reclaim());
  EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(1)), nullptr);
  ASSERT_EQ(server_.releases.size(), 1u);
  EXPECT_EQ(server_.releases[0].epoch, Epoch(5));
  EXPECT_EQ(server_.releases[0].generation, server_.Served(7)->generation());
  EXPECT_EQ(store.figures().leaving_bytes, 3 * layout_->slot_bytes(SlotIndex(1)));
  EXPECT_FALSE(store.Reclaim());

  const uint64_t free_before = store.figures().free_bytes;
  server_.reusable = 1;
  EXPECT_TRUE(store.Reclaim());
  EXPECT_EQ(store.figures().leaving_bytes, 0u);
  EXPECT_GT(store.figures().free_bytes, free_before);
  EXPECT_FALSE(store.NeedsReclaim());
}

TEST_F(SlotStoreTest, LeavingSlotIsWithdrawnWhenPatienceEnds) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 2)).ok());
  LoadAll(&store);
  server_.acknowledged = Epoch(0);
  server_.reusable = 0;
  store.SetNewestEpoch(kVersion, Epoch(5));
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 1)).ok());
  clock_.Advance(milliseconds(29999));
  EXPECT_FALSE(store.Reclaim());
  EXPECT_NE(server_.Served(7)->Rows(SlotIndex(1)), nullptr);
  clock_.Advance(milliseconds(1));
  EXPECT_TRUE(store.Reclaim());
  EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(1)), nullptr);
  EXPECT_GT(store.figures().leaving_bytes, 0u);
}

TEST_F(SlotStoreTest, SlotThatComesBackWhileItLeavesOrIsWithdrawnIsKeptWhereItIs) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 2)).ok());
  LoadAll(&store);
  const std::byte* rows = server_.Served(7)->Rows(SlotIndex(1));
  for (const uint64_t acknowledged : {4u, 5u}) {
    server_.acknowledged = Epoch(acknowledged);
    server_.reusable = 0;
    store.SetNewestEpoch(kVersion, Epoch(5));
    ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 1)).ok());
    store.Reclaim();
    EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(1)), acknowledged == 4 ? rows : nullptr);
    ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 2)).ok());
    server_.acknowledged = Epoch(9);
    server_.reusable = 99;
    store.Reclaim();
    EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(1)), rows);
    EXPECT_EQ(store.ReadySlots(kVersion).size(), 2u);
    EXPECT_FALSE(store.NeedsReclaim());
  }
}

TEST_F(SlotStoreTest, FullNodeHasNewSlotsOfAnyVersionWaitForThoseThatLeave) {
  const uint64_t slot_bytes = layout_->slot_bytes(SlotIndex(0));
  constexpr uint32_t kMemoryBytes = 4 * 4096;
  const auto full = static_cast<uint32_t>(kMemoryBytes / ((slot_bytes + 63) / 64 * 64));
  SlotStore store = StoreWithVersion(kMemoryBytes);
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, full)).ok());
  LoadAll(&store);
  server_.reusable = 0;
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(3, full)).ok());
  const TableVersion next(8);
  ASSERT_TRUE(store.AddVersion(next, test::SmallIdentity(), layout_).ok());
  ASSERT_TRUE(store.SetSlots(next, SlotList(0, 3)).ok());
  const uint64_t unplaced = store.UnplacedCount(next);
  EXPECT_EQ(unplaced, 3u);
  EXPECT_EQ(store.HeldBytes(next), 3 * slot_bytes);
  EXPECT_EQ(store.figures().unplaced_bytes, unplaced * slot_bytes);
  store.Reclaim();
  EXPECT_EQ(store.UnplacedCount(next), unplaced);
  server_.reusable = 1;
  EXPECT_TRUE(store.Reclaim());
  EXPECT_EQ(store.UnplacedCount(next), 0u);
  EXPECT_EQ(store.EmptyCount(next), 3u);
  EXPECT_EQ(server_.region_sizes.size(), 1u);
  // More than can ever fit is refused at once.
  EXPECT_EQ(store.SetSlots(next, SlotList(0, 6)).code(), StatusCode::kResourceExhausted);
}

TEST_F(SlotStoreTest, EpochNeverGoesBack) {
  SlotStore store = StoreWithVersion();
  store.SetNewestEpoch(kVersion, Epoch(5));
  store.SetNewestEpoch(kVersion, Epoch(4));
  EXPECT_EQ(server_.Served(7)->newest_epoch(), Epoch(5));
}

TEST_F(SlotStoreTest, EmptySlotTakenAwayGivesItsMemoryBack) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 4)).ok());
  const uint64_t free_before = store.figures().free_bytes;
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 2)).ok());
  EXPECT_GT(store.figures().free_bytes, free_before);
}

TEST_F(SlotStoreTest, MemoryThatALoadMayWriteToStaysItsOwnUntilUnpinned) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 1)).ok());
  const std::vector<EmptySlot> pinned = test::PinIdle(&store, kVersion);
  const EmptySlot loading = pinned.at(0);
  EXPECT_TRUE(store.IsWanted(kVersion, loading));
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(1, 2)).ok());  // taken away...
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 2)).ok());  // ...and back, with other memory
  EXPECT_TRUE(store.Publish(kVersion, loading.slot, loading.rows, 5).ok());
  EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(0)), nullptr);
  EXPECT_FALSE(store.IsWanted(kVersion, loading));
  for (const EmptySlot& slot : store.IdleSlots(kVersion)) EXPECT_NE(slot.rows, loading.rows);
  const uint64_t free_before = store.figures().free_bytes;
  store.Unpin(pinned);
  EXPECT_GT(store.figures().free_bytes, free_before);
}

TEST_F(SlotStoreTest, ReadySlotWhoseRecordedDigestDiffersIsRefused) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 2)).ok());
  LoadAll(&store);
  ASSERT_TRUE(store.SetSlots(kVersion, {{{SlotIndex(0), 100}, {SlotIndex(1), 999}}}).ok());
  EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(1)), nullptr);
  EXPECT_NE(server_.Served(7)->Rows(SlotIndex(0)), nullptr);
  EXPECT_EQ(store.RefusedSlots(kVersion), std::vector<SlotIndex>{SlotIndex(1)});
  ASSERT_TRUE(store.SetSlots(kVersion, {{{SlotIndex(0), 100}, {SlotIndex(1), 101}}}).ok());
  EXPECT_NE(server_.Served(7)->Rows(SlotIndex(1)), nullptr);
}

TEST_F(SlotStoreTest, DigestRecordedDuringTheLoadRefusesAnotherOne) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 1)).ok());
  const EmptySlot slot = store.IdleSlots(kVersion).at(0);
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 1, 1, 77)).ok());
  EXPECT_EQ(store.Publish(kVersion, slot.slot, slot.rows, 78).code(), StatusCode::kCorrupt);
  EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(0)), nullptr);
}

TEST_F(SlotStoreTest, SlotsOutOfRangeOrOutOfOrderAreRefused) {
  SlotStore store = StoreWithVersion();
  const uint32_t count = layout_->slot_count();
  EXPECT_EQ(store.SetSlots(kVersion, SlotList(count, count + 1)).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store.SetSlots(kVersion, {{{SlotIndex(2), 0}, {SlotIndex(2), 0}}}).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store.SetSlots(TableVersion(8), {}).code(), StatusCode::kNotFound);
  EXPECT_EQ(store.figures().region_bytes, 0u);
}

TEST_F(SlotStoreTest, DroppedVersionsMemoryWaitsForTheLastReaderAndTheLastLease) {
  const uint64_t limit = layout_->total_bytes() + (64 << 10);
  SlotStore store = StoreWithVersion(limit);
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, layout_->slot_count())).ok());
  LoadAll(&store);
  auto gather_thread = server_.Served(7);
  server_.reusable = 0;
  store.DropVersion(kVersion);
  EXPECT_EQ(server_.Served(7), nullptr);
  EXPECT_EQ(server_.releases.at(0).generation, kNeverRead);

  const TableVersion next(8);
  ASSERT_TRUE(store.AddVersion(next, test::SmallIdentity(), layout_).ok());
  ASSERT_TRUE(store.SetSlots(next, SlotList(0, layout_->slot_count())).ok());
  EXPECT_GT(store.UnplacedCount(next), 0u);
  server_.reusable = 1;
  store.Reclaim();
  EXPECT_GT(store.UnplacedCount(next), 0u);
  gather_thread.reset();
  EXPECT_TRUE(store.Reclaim());
  EXPECT_EQ(store.UnplacedCount(next), 0u);
  EXPECT_EQ(store.figures().waiting_bytes, 0u);
  EXPECT_LE(store.figures().region_bytes, limit);
}

TEST_F(SlotStoreTest, DroppedVersionIsServedUntilNobodyHasASessionForItOrPatienceEnds) {
  for (const bool patience_ends : {false, true}) {
    SlotStore store = StoreWithVersion();
    ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 4)).ok());
    LoadAll(&store);
    server_.acknowledged = Epoch(1000);  // by readers that have sessions
    store.DropVersion(kVersion);
    EXPECT_FALSE(store.Has(kVersion));
    EXPECT_TRUE(store.ReadySlots(kVersion).empty());
    EXPECT_EQ(store.HeldBytes(kVersion), 0u);
    EXPECT_EQ(store.SetSlots(kVersion, {}).code(), StatusCode::kNotFound);
    clock_.Advance(milliseconds(29999));
    EXPECT_FALSE(store.Reclaim());
    ASSERT_NE(server_.Served(7), nullptr);
    EXPECT_NE(server_.Served(7)->Rows(SlotIndex(3)), nullptr);
    EXPECT_TRUE(store.NeedsReclaim());
    if (patience_ends) {
      clock_.Advance(milliseconds(1));
    } else {
      server_.acknowledged = Epoch(kNeverRead);  // there are none
    }
    EXPECT_TRUE(store.Reclaim());
    EXPECT_EQ(server_.Served(7), nullptr);
    EXPECT_FALSE(store.NeedsReclaim());
    EXPECT_EQ(store.figures().free_bytes, store.figures().region_bytes);
  }
}

TEST_F(SlotStoreTest, DroppedVersionsNumberMayComeBackWhileItIsServed) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 4)).ok());
  LoadAll(&store);
  server_.acknowledged = Epoch(0);
  store.DropVersion(kVersion);
  ASSERT_TRUE(store.AddVersion(kVersion, test::SmallIdentity(), layout_).ok());
  EXPECT_EQ(server_.Served(7)->Rows(SlotIndex(3)), nullptr);
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 4)).ok());
  EXPECT_EQ(store.EmptyCount(kVersion), 4u);
}

TEST_F(SlotStoreTest, DroppedVersionsMemoryIsNotReusedWhileALoadWritesToIt) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 4)).ok());
  const std::vector<EmptySlot> pinned = test::PinIdle(&store, kVersion);
  ASSERT_EQ(pinned.size(), 4u);
  EXPECT_TRUE(store.IdleSlots(kVersion).empty());
  store.DropVersion(kVersion);
  store.Reclaim();
  EXPECT_GT(store.figures().waiting_bytes, 0u);
  store.Unpin(pinned);
  EXPECT_EQ(store.figures().waiting_bytes, 0u);
}

TEST_F(SlotStoreTest, FlipByteDamagesExactlyOneStoredByte) {
  SlotStore store = StoreWithVersion();
  ASSERT_TRUE(store.SetSlots(kVersion, SlotList(0, 1)).ok());
  EXPECT_EQ(store.FlipByte(kVersion, SlotIndex(0), 0, 0).code(), StatusCode::kNotFound);
  LoadAll(&store);
  const std::byte* rows = server_.Served(7)->Rows(SlotIndex(0));
  EXPECT_EQ(store.FlipByte(kVersion, SlotIndex(0), 0, layout_->row_stride()).code(),
            StatusCode::kInvalidArgument);
  ASSERT_TRUE(store.FlipByte(kVersion, SlotIndex(0), 2, 5).ok());
  for (uint64_t i = 0; i < layout_->slot_bytes(SlotIndex(0)); ++i) {
    EXPECT_EQ(rows[i] != std::byte{0}, i == 2 * layout_->row_stride() + 5) << i;
  }
}

}  // namespace
}  // namespace engram
