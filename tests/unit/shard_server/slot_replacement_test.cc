// A ready slot whose rows are replaced: SlotStore::StartReplacing and what may happen until then.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shard_server/slot_store.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using test::SlotList;
using testing::HasSubstr;

constexpr TableVersion kVersion{7};
constexpr uint64_t kMemoryBytes = 4 * 4096;  // whole pages
constexpr SlotIndex kDamaged{2};

class SlotReplacementTest : public testing::Test {
 protected:
  // As many ready slots as leave memory for `spare` more.
  void Start(uint32_t spare = 2) {
    SlotStore::Options options;
    options.memory_bytes_max = kMemoryBytes;
    slots_ = static_cast<uint32_t>(kMemoryBytes / piece_bytes_) - spare;
    store_.emplace(&server_, &clock_, options);
    ASSERT_TRUE(store_->AddVersion(kVersion, test::SmallIdentity(), layout_).ok());
    ASSERT_TRUE(store_->SetSlots(kVersion, SlotList(0, slots_)).ok());
    for (const EmptySlot& slot : store_->IdleSlots(kVersion)) Publish(slot);
    ASSERT_EQ(store_->ReadySlots(kVersion).size(), slots_);
    old_rows_ = Served(kDamaged);
  }
  void Publish(const EmptySlot& slot) {
    ASSERT_TRUE(store_->Publish(kVersion, slot.slot, slot.rows, 100 + slot.slot.value()).ok());
  }
  EmptySlot Replacing() {
    EXPECT_TRUE(store_->StartReplacing(kVersion, kDamaged).ok());
    const auto idle = store_->IdleSlots(kVersion);
    EXPECT_EQ(idle.size(), 1u);
    EXPECT_TRUE(store_->IsReplacement(kVersion, idle.at(0)));
    EXPECT_EQ(store_->ReplacingCount(kVersion), 1u);
    return idle.at(0);
  }
  const std::byte* Served(SlotIndex slot) { return server_.Served(7)->Rows(slot); }
  // All the memory that no slot has is free.
  void ExpectNothingLeaked(uint32_t held) {
    store_->Reclaim();
    const SlotStoreFigures figures = store_->figures();
    EXPECT_EQ(figures.replacing_bytes, 0u);
    EXPECT_EQ(figures.waiting_bytes, 0u);
    EXPECT_EQ(figures.leaving_bytes, 0u);
    EXPECT_EQ(figures.free_bytes, figures.region_bytes - held * piece_bytes_);
    EXPECT_FALSE(store_->NeedsReclaim());
  }

  test::RecordingRowServer server_;
  ManualClock clock_;
  std::shared_ptr<const TableLayout> layout_ = test::SmallLayout();
  const uint64_t piece_bytes_ = (layout_->slot_bytes(SlotIndex(0)) + kPieceAlignBytes - 1) /
                                kPieceAlignBytes * kPieceAlignBytes;
  std::optional<SlotStore> store_;
  uint32_t slots_ = 0;
  const std::byte* old_rows_ = nullptr;
};

TEST_F(SlotReplacementTest, SlotIsServedWhereItIsUntilItsReplacementIsThere) {
  Start();
  const EmptySlot replacement = Replacing();
  EXPECT_EQ(replacement.slot, kDamaged);
  EXPECT_EQ(replacement.digest, 102u);  // what the slot held, though none is recorded
  EXPECT_NE(replacement.rows, old_rows_);
  EXPECT_EQ(Served(kDamaged), old_rows_);
  EXPECT_EQ(store_->ReadySlots(kVersion).size(), slots_);
  EXPECT_EQ(store_->EmptyCount(kVersion), 0u);
  EXPECT_EQ(store_->figures().replacing_bytes, layout_->slot_bytes(kDamaged));
  EXPECT_TRUE(store_->IsWanted(kVersion, replacement));
  EXPECT_TRUE(store_->StartReplacing(kVersion, kDamaged).ok());  // once is enough
  EXPECT_EQ(store_->IdleSlots(kVersion).size(), 1u);

  const uint64_t generation = server_.Served(7)->generation();
  server_.reusable = 0;
  Publish(replacement);
  EXPECT_EQ(Served(kDamaged), replacement.rows);
  EXPECT_EQ(store_->ReadyRows(kVersion, kDamaged), replacement.rows);
  EXPECT_GT(server_.Served(7)->generation(), generation);
  EXPECT_FALSE(store_->IsReplacement(kVersion, replacement));
  EXPECT_TRUE(store_->IdleSlots(kVersion).empty());
  EXPECT_EQ(store_->ReadySlots(kVersion).at(2).digest, 102u);
}

TEST_F(SlotReplacementTest, OldMemoryWaitsForReadersOfOlderDirectoriesAndForNoEpoch) {
  Start();
  server_.reusable = 0;
  server_.acknowledged = Epoch(0);
  Publish(Replacing());
  ASSERT_EQ(server_.releases.size(), 1u);
  EXPECT_EQ(server_.releases[0].epoch, Epoch(0));
  EXPECT_EQ(server_.releases[0].generation, server_.Served(7)->generation());
  store_->Reclaim();
  EXPECT_TRUE(store_->NeedsReclaim());
  EXPECT_EQ(store_->figures().waiting_bytes, layout_->slot_bytes(kDamaged));
  server_.reusable = 1;
  EXPECT_TRUE(store_->Reclaim());
  ExpectNothingLeaked(slots_);
}

TEST_F(SlotReplacementTest, WithoutMemoryTheSlotStaysServedAndTheErrorSaysHowMuchThereIs) {
  Start(0);
  const Status status = store_->StartReplacing(kVersion, kDamaged);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("--memory"));
  EXPECT_EQ(Served(kDamaged), old_rows_);
  EXPECT_EQ(store_->ReplacingCount(kVersion), 0u);
  // What leaves makes room.
  ASSERT_TRUE(store_->SetSlots(kVersion, SlotList(1, slots_)).ok());
  store_->Reclaim();
  store_->Reclaim();
  Publish(Replacing());
  ExpectNothingLeaked(slots_ - 1);
}

TEST_F(SlotReplacementTest, OnlyReadySlotsAreReplaced) {
  Start();
  EXPECT_EQ(store_->StartReplacing(kVersion, SlotIndex(slots_)).code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->StartReplacing(kVersion, SlotIndex(100000)).code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->StartReplacing(TableVersion(8), kDamaged).code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->NextReady(kVersion, kDamaged), kDamaged);
  EXPECT_EQ(store_->NextReady(kVersion, SlotIndex(slots_)), std::nullopt);
  EXPECT_EQ(store_->NextReady(TableVersion(8), kDamaged), std::nullopt);
}

TEST_F(SlotReplacementTest, OtherDigestLetsTheReplacementGoAndTheSlotStay) {
  Start();
  const EmptySlot replacement = Replacing();
  EXPECT_EQ(store_->Publish(kVersion, kDamaged, replacement.rows, 55).code(), StatusCode::kCorrupt);
  EXPECT_EQ(Served(kDamaged), old_rows_);
  EXPECT_EQ(store_->ReadySlots(kVersion).size(), slots_);
  ExpectNothingLeaked(slots_);
}

TEST_F(SlotReplacementTest, SlotThatLeavesLetsItsReplacementGoAndIsServedOnMeanwhile) {
  Start();
  server_.acknowledged = Epoch(4);
  store_->SetNewestEpoch(kVersion, Epoch(5));
  const EmptySlot replacement = Replacing();
  store_->Pin({&replacement, 1});
  ASSERT_TRUE(store_->SetSlots(kVersion, SlotList(0, 2)).ok());
  EXPECT_EQ(Served(kDamaged), old_rows_);
  EXPECT_FALSE(store_->IsWanted(kVersion, replacement));
  EXPECT_EQ(store_->ReplacingCount(kVersion), 0u);
  Publish(replacement);  // too late: not served
  EXPECT_EQ(Served(kDamaged), old_rows_);
  // Its memory is the load's until then.
  EXPECT_EQ(store_->figures().waiting_bytes, layout_->slot_bytes(kDamaged));
  store_->Unpin({&replacement, 1});
  EXPECT_EQ(store_->figures().waiting_bytes, 0u);
  // It comes back as it was, and may be replaced again.
  ASSERT_TRUE(store_->SetSlots(kVersion, SlotList(0, slots_)).ok());
  Publish(Replacing());
  EXPECT_NE(Served(kDamaged), old_rows_);
}

TEST_F(SlotReplacementTest, RefusedSlotAndDroppedVersionLetTheReplacementGo) {
  Start();
  const EmptySlot refused = Replacing();
  std::vector<AssignedSlot> slots = SlotList(0, slots_);
  slots[2].digest = 999;
  ASSERT_TRUE(store_->SetSlots(kVersion, slots).ok());
  EXPECT_EQ(store_->ReplacingCount(kVersion), 0u);
  EXPECT_FALSE(store_->IsReplacement(kVersion, refused));
  EXPECT_EQ(Served(kDamaged), nullptr);
  ASSERT_TRUE(store_->StartReplacing(kVersion, SlotIndex(1)).ok());
  const EmptySlot loading = store_->IdleSlots(kVersion).at(0);
  store_->Pin({&loading, 1});
  store_->DropVersion(kVersion);
  EXPECT_EQ(store_->figures().waiting_bytes, layout_->slot_bytes(SlotIndex(1)));
  EXPECT_TRUE(store_->Publish(kVersion, loading.slot, loading.rows, 101).ok());
  store_->Unpin({&loading, 1});
  ExpectNothingLeaked(0);
}

TEST_F(SlotReplacementTest, RowsThatAreCheckedAreNobodyElsesUntilTheCheckEnds) {
  Start();
  store_->PinRows(old_rows_);
  Publish(Replacing());
  store_->Reclaim();
  EXPECT_EQ(store_->figures().waiting_bytes, layout_->slot_bytes(kDamaged));
  ASSERT_TRUE(store_->StartReplacing(kVersion, SlotIndex(0)).ok());
  for (const EmptySlot& slot : store_->IdleSlots(kVersion)) EXPECT_NE(slot.rows, old_rows_);
  store_->UnpinRows(old_rows_);
  EXPECT_EQ(store_->figures().waiting_bytes, 0u);
}

TEST_F(SlotReplacementTest, NewSlotsWaitForTheMemoryThatARepairBorrows) {
  Start(1);
  const EmptySlot replacement = Replacing();
  ASSERT_TRUE(store_->SetSlots(kVersion, SlotList(0, slots_ + 1)).ok());
  EXPECT_EQ(store_->UnplacedCount(kVersion), 1u);
  Publish(replacement);
  EXPECT_TRUE(store_->Reclaim());
  EXPECT_EQ(store_->UnplacedCount(kVersion), 0u);
}

}  // namespace
}  // namespace engram
