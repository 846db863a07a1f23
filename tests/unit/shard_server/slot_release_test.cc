// When the memory of a slot that moved away or was replaced is reused, with real readers.
#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include "shard_server/slot_store.h"
#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::kVersion;

constexpr uint32_t kLeaving = 3;  // the slot that moves away in these tests
constexpr uint32_t kSlots = 8;    // held at first

std::vector<AssignedSlot> Without(uint32_t left, uint32_t end = kSlots) {
  std::vector<AssignedSlot> slots;
  for (uint32_t slot = 0; slot < end; ++slot) {
    if (slot != left) slots.push_back({SlotIndex(slot), 0});
  }
  return slots;
}

// A slot store on a UCX server with a full memory, and one reader.
class SlotReleaseTest : public testing::Test {
 protected:
  // Memory for kSlots slots, and `spare` more.
  void Start(const test::UcxSetting& setting, Duration patience, uint32_t spare = 0) {
    f_ = std::make_unique<test::UcxFixture>(setting);
    f_->server_ = UcxRowServer::Create(f_->ServerOptions()).value();
    SlotStore::Options options;
    options.memory_bytes_max = (kSlots + spare) * ((SlotBytes() + 63) / 64 * 64) + 4096;
    options.release_patience = patience;
    store_ = std::make_unique<SlotStore>(f_->server_.get(), &clock_, options);
    ASSERT_TRUE(store_->AddVersion(kVersion, test::SmallIdentity(), f_->layout_).ok());
    store_->SetNewestEpoch(kVersion, Epoch(1));
    // All the memory in one region, then the spare given back.
    ASSERT_TRUE(store_->SetSlots(kVersion, Without(kSlots + spare, kSlots + spare)).ok());
    ASSERT_TRUE(store_->SetSlots(kVersion, Without(kSlots)).ok());
    FillEmpty();
    ASSERT_EQ(store_->ReadySlots(kVersion).size(), kSlots);
    UcxTransportOptions reader = f_->ReaderOptions();
    reader.keep_alive = seconds(20);
    f_->StartReader(reader);
    session_ = f_->OpenSession();
    f_->reader_->AcknowledgeEpoch(session_, Epoch(1));
  }
  [[nodiscard]] uint64_t SlotBytes() const { return f_->layout_->slot_bytes(SlotIndex(0)); }
  // Gives every empty slot its rows, and serves it.
  void FillEmpty() {
    for (const EmptySlot& slot : store_->IdleSlots(kVersion)) {
      std::byte* to = slot.rows;
      for (const RowAddress row : RowsOf(slot.slot.value())) {
        const auto bytes = test::StoredRow(*f_->layout_, kVersion, row);
        to = std::copy(bytes.begin(), bytes.end(), to);
      }
      ASSERT_TRUE(store_->Publish(kVersion, slot.slot, slot.rows, 1).ok());
    }
  }
  [[nodiscard]] std::vector<RowAddress> RowsOf(uint32_t slot) const {
    std::vector<RowAddress> rows;
    for (uint32_t r = 0; r < f_->layout_->slot(SlotIndex(slot)).row_count; ++r) {
      rows.emplace_back((uint64_t{slot} << f_->layout_->slot_shift()) + r);
    }
    return rows;
  }
  // The slot's rows as they should be, or not owned: nothing else, ever. True for rows.
  bool ReadsRightOrNotOwned(uint32_t slot) {
    const std::vector<RowAddress> rows = RowsOf(slot);
    const test::RecordedRead read = f_->Read(session_, ++tag_, rows);
    EXPECT_EQ(read.done, StatusCode::kOk);
    bool all = true;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (read.statuses[i] == StatusCode::kNotOwned) {
        all = false;
        continue;
      }
      EXPECT_EQ(read.statuses[i], StatusCode::kOk);
      EXPECT_EQ(read.rows[i], test::StoredRow(*f_->layout_, kVersion, rows[i])) << i;
    }
    return all;
  }
  // The slot moves away at epoch 2, and another one wants its memory.
  void Leave() {
    store_->SetNewestEpoch(kVersion, Epoch(2));
    std::vector<AssignedSlot> slots = Without(kLeaving);
    slots.push_back({SlotIndex(kSlots), 0});
    ASSERT_TRUE(store_->SetSlots(kVersion, slots).ok());
    ASSERT_EQ(store_->UnplacedCount(kVersion), 1u);
  }
  [[nodiscard]] bool IsServed(uint32_t slot) const {
    return store_->IsServed(kVersion, SlotIndex(slot));
  }

  ManualClock clock_;  // patience; leases run in real time
  std::unique_ptr<test::UcxFixture> f_;
  std::unique_ptr<SlotStore> store_;
  SessionId session_;
  uint64_t tag_ = 0;
};

constexpr test::UcxSetting kMapped{"mapped", "shm", "off", ReadWay::kMapped};
constexpr test::UcxSetting kOneSided{"one_sided", "shm", "shm", ReadWay::kOneSided};
constexpr test::UcxSetting kGather{"gather", "tcp", "off", ReadWay::kGather};

class OwnReadsReleaseTest : public SlotReleaseTest,
                            public testing::WithParamInterface<test::UcxSetting> {};

TEST_P(OwnReadsReleaseTest, MemoryIsNotReusedWhileAReaderAtAnOlderEpochHoldsALease) {
  Start(GetParam(), seconds(30));
  ASSERT_TRUE(ReadsRightOrNotOwned(kLeaving));
  Leave();
  // Patience: it is served on, and the reader's lease renewed.
  const MonotonicTime start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() < start + milliseconds(300)) {
    (void)store_->Reclaim();
    EXPECT_TRUE(IsServed(kLeaving));
    EXPECT_TRUE(ReadsRightOrNotOwned(kLeaving));
  }
  clock_.Advance(seconds(30));
  (void)store_->Reclaim();
  EXPECT_FALSE(IsServed(kLeaving));
  // Withdrawn. The lease of a reader that never acknowledges runs out, and until then the memory
  // stays what it was; after that another slot's rows are in it.
  EXPECT_EQ(store_->UnplacedCount(kVersion), 1u);
  const MonotonicTime until = std::chrono::steady_clock::now() + seconds(30);
  while (store_->UnplacedCount(kVersion) > 0 && std::chrono::steady_clock::now() < until) {
    (void)ReadsRightOrNotOwned(kLeaving);
    EXPECT_TRUE(ReadsRightOrNotOwned(0));
    (void)store_->Reclaim();
  }
  ASSERT_EQ(store_->UnplacedCount(kVersion), 0u);
  FillEmpty();
  EXPECT_TRUE(IsServed(kSlots));
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(ReadsRightOrNotOwned(kLeaving));
    EXPECT_TRUE(ReadsRightOrNotOwned(kSlots));
    EXPECT_TRUE(ReadsRightOrNotOwned(5));
  }
}

TEST_P(OwnReadsReleaseTest, ReaderThatIsSilentIsWaitedForUntilItsLeaseEnds) {
  Start(GetParam(), milliseconds(0));
  ASSERT_TRUE(ReadsRightOrNotOwned(kLeaving));
  const MonotonicTime granted = std::chrono::steady_clock::now();
  Leave();
  // The reader is not driven: it neither acknowledges nor asks for a lease. Its last lease was
  // granted some time before `granted`: by a third of a lease, or when the session opened.
  while (store_->UnplacedCount(kVersion) > 0) {
    (void)store_->Reclaim();
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_GE(std::chrono::steady_clock::now(), granted + milliseconds(200));
  FillEmpty();
  // Only now does it look, by a directory that says where the slot was.
  EXPECT_FALSE(ReadsRightOrNotOwned(kLeaving));
}

TEST_P(OwnReadsReleaseTest, ReaderThatAcknowledgesFreesTheMemoryLongBeforePatienceEnds) {
  Start(GetParam(), seconds(600));
  ASSERT_TRUE(ReadsRightOrNotOwned(kLeaving));
  Leave();
  ASSERT_TRUE(f_->Drive([&] { return f_->events_->epochs.contains(session_); }));
  (void)store_->Reclaim();
  EXPECT_TRUE(IsServed(kLeaving));
  f_->reader_->AcknowledgeEpoch(session_, Epoch(2));
  EXPECT_TRUE(f_->Drive([&] {
    (void)store_->Reclaim();
    return store_->UnplacedCount(kVersion) == 0;
  }));
  FillEmpty();
  EXPECT_FALSE(ReadsRightOrNotOwned(kLeaving));
  EXPECT_TRUE(ReadsRightOrNotOwned(kSlots));
}

TEST_P(OwnReadsReleaseTest, ReplacedSlotIsReadThroughoutAndItsOldMemoryReusedWithANewerDirectory) {
  Start(GetParam(), seconds(30), 1);
  ASSERT_TRUE(ReadsRightOrNotOwned(kLeaving));
  const std::byte* const old_rows = store_->ReadyRows(kVersion, SlotIndex(kLeaving));
  ASSERT_TRUE(store_->StartReplacing(kVersion, SlotIndex(kLeaving)).ok());
  EXPECT_TRUE(ReadsRightOrNotOwned(kLeaving));
  FillEmpty();
  EXPECT_NE(store_->ReadyRows(kVersion, SlotIndex(kLeaving)), old_rows);
  // A new slot wants the old memory.
  ASSERT_TRUE(store_->SetSlots(kVersion, Without(kSlots + 1, kSlots + 1)).ok());
  EXPECT_EQ(store_->UnplacedCount(kVersion), 1u);
  const MonotonicTime until = std::chrono::steady_clock::now() + seconds(30);
  while (store_->UnplacedCount(kVersion) > 0 && std::chrono::steady_clock::now() < until) {
    EXPECT_TRUE(ReadsRightOrNotOwned(kLeaving));
    (void)store_->Reclaim();
  }
  ASSERT_EQ(store_->UnplacedCount(kVersion), 0u);
  FillEmpty();
  EXPECT_EQ(store_->ReadyRows(kVersion, SlotIndex(kSlots)), old_rows);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(ReadsRightOrNotOwned(kLeaving));
    EXPECT_TRUE(ReadsRightOrNotOwned(kSlots));
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, OwnReadsReleaseTest, testing::Values(kMapped, kOneSided),
                         [](const auto& param_info) { return param_info.param.name; });

TEST_F(SlotReleaseTest, GatheringReaderAtAnOlderEpochIsServedUntilItAcknowledges) {
  Start(kGather, seconds(600));
  ASSERT_TRUE(ReadsRightOrNotOwned(kLeaving));
  Leave();
  for (int i = 0; i < 20; ++i) {
    (void)store_->Reclaim();
    EXPECT_TRUE(ReadsRightOrNotOwned(kLeaving));
  }
  f_->reader_->AcknowledgeEpoch(session_, Epoch(2));
  EXPECT_TRUE(f_->Drive([&] {
    (void)store_->Reclaim();
    return store_->UnplacedCount(kVersion) == 0;
  }));
  FillEmpty();
  EXPECT_FALSE(ReadsRightOrNotOwned(kLeaving));
}

TEST_F(SlotReleaseTest, MemoryIsNotReusedBeforeEveryGatherThreadHasPassedTheWithdrawal) {
  Start(kGather, milliseconds(0));
  f_->PauseServer();
  f_->reader_.reset();
  Leave();
  // Past the lease that the gathering reader was given as well.
  const MonotonicTime start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() < start + milliseconds(2500)) {
    (void)store_->Reclaim();
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_FALSE(IsServed(kLeaving));
  EXPECT_EQ(store_->UnplacedCount(kVersion), 1u);
  f_->hooks_.paused = false;
  while (store_->UnplacedCount(kVersion) > 0) (void)store_->Reclaim();
}

TEST_F(SlotReleaseTest, DroppedVersionsMemoryServesAnotherOnceItsLeasesHaveEnded) {
  Start(kMapped, milliseconds(0));
  ASSERT_TRUE(ReadsRightOrNotOwned(kLeaving));
  const TableVersion next(kVersion.value() + 1);
  ASSERT_TRUE(store_->AddVersion(next, test::SmallIdentity(), f_->layout_).ok());
  store_->DropVersion(kVersion);
  ASSERT_TRUE(store_->SetSlots(next, Without(kSlots)).ok());
  EXPECT_GT(store_->UnplacedCount(next), 0u);
  while (store_->UnplacedCount(next) > 0) (void)store_->Reclaim();
  ASSERT_TRUE(f_->Drive([&] { return f_->events_->closed.contains(session_); }));
  EXPECT_EQ(f_->events_->closed.at(session_).code(), StatusCode::kWrongVersion);
}

}  // namespace
}  // namespace engram
