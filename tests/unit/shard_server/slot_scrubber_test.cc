#include "shard_server/slot_scrubber.h"

#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/table/stored_row.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;

constexpr TableVersion kVersion{3};
constexpr SlotIndex kSlot{5};

// One slot's rows, sealed.
class SlotScrubberTest : public testing::Test {
 protected:
  SlotScrubberTest() {
    const SlotRange& slot = layout_->slot(kSlot);
    rows_.resize(layout_->slot_bytes(kSlot));
    for (uint32_t r = 0; r < slot.row_count; ++r) {
      std::byte* const row = rows_.data() + size_t{r} * layout_->row_stride();
      std::fill(row, row + layout_->row_bytes(), static_cast<std::byte>(r));
      SealRow(kVersion, layout_->spec().hash.layer_ids[static_cast<size_t>(slot.layer_index)],
              RowId(slot.first_row.value() + r), row, layout_->row_bytes());
    }
  }
  [[nodiscard]] ScrubJob Job() const { return {kVersion, layout_, kSlot, rows_.data()}; }
  void Damage(uint32_t row, uint32_t byte) {
    rows_[size_t{row} * layout_->row_stride() + byte] ^= std::byte{1};
  }
  [[nodiscard]] ScrubResult CheckNow() const {
    return CheckSlot(Job(), nullptr, clock_, [](MonotonicTime) { return ScrubWait::kStop; });
  }

  ManualClock clock_;
  std::shared_ptr<const TableLayout> layout_ = test::SmallLayout(3000000);  // slots of many steps
  std::vector<std::byte> rows_;
};

TEST_F(SlotScrubberTest, WholeRowsAreWholeAndEveryDamagedOneIsFound) {
  EXPECT_EQ(CheckNow().rows_damaged, 0u);
  EXPECT_EQ(CheckNow().bytes, layout_->slot_bytes(kSlot));
  const uint32_t last = layout_->slot(kSlot).row_count - 1;
  Damage(0, 0);
  Damage(17, layout_->row_bytes());  // its CRC
  Damage(last, layout_->row_bytes() - 1);
  const ScrubResult found = CheckNow();
  EXPECT_TRUE(found.complete);
  EXPECT_EQ(found.rows_damaged, 3u);
  EXPECT_THAT(found.first_damaged, ElementsAre(0, 17, last));
}

TEST_F(SlotScrubberTest, ARowOfAnotherPlaceOrVersionIsDamage) {
  ScrubJob job = Job();
  job.version = TableVersion(4);
  const auto stop = [](MonotonicTime) { return ScrubWait::kStop; };
  const ScrubResult other = CheckSlot(job, nullptr, clock_, stop);
  EXPECT_EQ(other.rows_damaged, layout_->slot(kSlot).row_count);
  EXPECT_EQ(other.first_damaged.size(), kDamagedRowsNamedMax);
}

TEST_F(SlotScrubberTest, ABoundedCheckTakesTheTimeThatItsRateAllows) {
  const uint64_t bytes = layout_->slot_bytes(kSlot);
  ASSERT_GT(bytes, 4 * kScrubStepBytes);
  ByteRate rate;
  rate.SetMax(bytes / 10, clock_.Now());  // ten seconds
  const MonotonicTime start = clock_.Now();
  const ScrubResult result = CheckSlot(Job(), &rate, clock_, [&](MonotonicTime again) {
    EXPECT_GT(again, clock_.Now());
    clock_.Advance(again - clock_.Now());
    return ScrubWait::kAskAgain;
  });
  EXPECT_TRUE(result.complete);
  // Less what it may lend: one step, and its burst.
  const double lent = static_cast<double>(kScrubStepBytes) / (static_cast<double>(bytes) / 10);
  EXPECT_GE(clock_.Now() - start,
            std::chrono::duration<double>(10 - lent) - ByteRate::kBurst - milliseconds(1));
  EXPECT_LE(clock_.Now() - start, seconds(10));
}

TEST_F(SlotScrubberTest, AWaitingCheckStopsOrIsBoundedNoLonger) {
  ByteRate rate;
  rate.SetMax(1, clock_.Now());
  const auto stop = [](MonotonicTime) { return ScrubWait::kStop; };
  const ScrubResult stopped = CheckSlot(Job(), &rate, clock_, stop);
  EXPECT_FALSE(stopped.complete);
  EXPECT_LE(stopped.bytes, kScrubStepBytes);
  int waits = 0;
  const ScrubResult hurried = CheckSlot(Job(), &rate, clock_, [&](MonotonicTime) {
    ++waits;
    return ScrubWait::kUnbounded;
  });
  EXPECT_TRUE(hurried.complete);
  EXPECT_EQ(waits, 1);
}

TEST_F(SlotScrubberTest, TheThreadChecksOneSlotAfterTheOtherAndHurriesWhenTold) {
  Damage(3, 3);
  SlotScrubber scrubber(1);  // a byte a second
  for (const bool bounded : {false, true}) {
    std::promise<ScrubResult> checked;
    scrubber.Start(Job(), bounded, [&](const ScrubResult& result) { checked.set_value(result); });
    std::future<ScrubResult> result = checked.get_future();
    if (bounded) {
      EXPECT_EQ(result.wait_for(milliseconds(50)), std::future_status::timeout);
      scrubber.Hurry();
    }
    EXPECT_EQ(result.get().rows_damaged, 1u);
  }
  EXPECT_EQ(scrubber.bytes_checked(), 2 * layout_->slot_bytes(kSlot));
  // One that waits does not hold up the end.
  scrubber.Start(Job(), true, [](const ScrubResult&) {});
}

}  // namespace
}  // namespace engram
