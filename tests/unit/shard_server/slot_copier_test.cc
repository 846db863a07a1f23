#include "shard_server/slot_copier.h"

#include <atomic>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/transport/loopback/loopback_network.h"
#include "shard_server/slot_memory.h"
#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::kIncarnation;
using test::kVersion;
using testing::HasSubstr;

// Memory for slots, and what was told of them.
class Copying {
 public:
  Copying(std::shared_ptr<const TableLayout> layout, SlotCopier::MakeTransport transport,
          SlotCopier::Options options = {})
      : layout_(std::move(layout)), copier_(std::move(transport), options) {
    job_.version = kVersion;
    job_.identity = test::SmallIdentity();
    job_.layout = layout_;
  }
  void AddSource(const std::string& address, Incarnation incarnation = kIncarnation) {
    job_.sources.push_back({"m" + std::to_string(job_.sources.size()), address, incarnation});
  }
  void Want(uint32_t slot, uint32_t source = 0, SlotDigest digest = 0) {
    memory_.emplace_back(layout_->slot_bytes(SlotIndex(slot)));
    job_.slots.push_back({{SlotIndex(slot), memory_.back().data(), digest}, source});
  }
  Status Run() {
    return copier_.Copy(
        job_, &control_,
        [this](const EmptySlot& slot, SlotDigest digest) {
          EXPECT_TRUE(loaded_.emplace(slot.slot.value(), digest).second);
          EXPECT_FALSE(failed_.contains(slot.slot.value()));
          order_.push_back(slot.slot.value());
        },
        [this](const EmptySlot& slot, const Status& why) {
          EXPECT_TRUE(failed_.emplace(slot.slot.value(), why).second);
          EXPECT_FALSE(loaded_.contains(slot.slot.value()));
        });
  }
  // Every slot that was told as loaded has exactly the rows it should, and their digest.
  void ExpectLoadedSlotsAreRight() {
    for (size_t i = 0; i < job_.slots.size(); ++i) {
      const SlotIndex slot = job_.slots[i].slot.slot;
      if (!loaded_.contains(slot.value())) continue;
      std::vector<std::byte> rows;
      for (uint32_t r = 0; r < layout_->slot(slot).row_count; ++r) {
        const RowAddress address((uint64_t{slot.value()} << layout_->slot_shift()) + r);
        const auto row = test::StoredRow(*layout_, kVersion, address);
        rows.insert(rows.end(), row.begin(), row.end());
      }
      ASSERT_EQ(rows, memory_[i]) << slot.value();
      EXPECT_EQ(loaded_.at(slot.value()), DigestOfRows(rows));
    }
  }

  std::shared_ptr<const TableLayout> layout_;
  SlotCopier copier_;
  CopyJob job_;
  LoadControl control_;
  std::vector<std::vector<std::byte>> memory_;
  std::map<uint32_t, SlotDigest> loaded_;
  std::map<uint32_t, Status> failed_;
  std::vector<uint32_t> order_;
};

// Over the loopback network, where everything can go wrong at will. It serves the even slots.
class SlotCopierTest : public testing::Test {
 protected:
  SlotCopierTest() {
    server_ = network_.CreateServer("a:1", kIncarnation);
    slots_ = test::FillSlots(*server_, kVersion, layout_, [](uint32_t s) { return s % 2 == 0; });
    server_->Serve(slots_);
  }
  Copying MakeCopying(SlotCopier::Options options = {}) {
    return Copying(
        layout_,
        [this]() -> Result<std::unique_ptr<Transport>> { return network_.CreateTransport(); },
        options);
  }

  LoopbackNetwork network_;
  std::shared_ptr<const TableLayout> layout_ = test::SmallLayout(5000);
  std::unique_ptr<RowServer> server_;
  std::shared_ptr<ServedSlots> slots_;
};

TEST_F(SlotCopierTest, SlotsComeWholeInTheOrderWanted) {
  SlotCopier::Options options;
  options.slots_in_flight_max = 1;
  options.rows_per_read = 7;
  Copying copying = MakeCopying(options);
  copying.AddSource("a:1");
  const uint32_t last = (layout_->slot_count() - 1) / 2 * 2;
  for (const uint32_t slot : {40u, 2u, last, 8u}) copying.Want(slot);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_THAT(copying.order_, testing::ElementsAre(40, 2, last, 8));
  copying.ExpectLoadedSlotsAreRight();
  uint64_t bytes = 0;
  for (const auto& memory : copying.memory_) bytes += memory.size();
  EXPECT_EQ(copying.control_.bytes_done(), bytes);
}

TEST_F(SlotCopierTest, SlotThatTheSourceHasNotFailsAloneWithNotOwned) {
  Copying copying = MakeCopying();
  copying.AddSource("a:1");
  for (const uint32_t slot : {2u, 3u, 4u}) copying.Want(slot);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.failed_.at(3).code(), StatusCode::kNotOwned);
  EXPECT_EQ(copying.loaded_.size(), 2u);
  copying.ExpectLoadedSlotsAreRight();
}

TEST_F(SlotCopierTest, RowsDamagedOnTheWayAreNeverTakenForWhole) {
  network_.CorruptRows("a:1", 1);
  Copying copying = MakeCopying();
  copying.AddSource("a:1");
  for (uint32_t slot = 0; slot < 20; slot += 2) copying.Want(slot);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.failed_.size(), 1u);
  EXPECT_EQ(copying.failed_.begin()->second.code(), StatusCode::kCorrupt);
  EXPECT_EQ(copying.loaded_.size(), 9u);
  copying.ExpectLoadedSlotsAreRight();
}

TEST_F(SlotCopierTest, WholeRowsOfAnotherDigestThanRecordedAreRefused) {
  Copying copying = MakeCopying();
  copying.AddSource("a:1");
  copying.Want(2, 0, 12345);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.failed_.at(2).code(), StatusCode::kCorrupt);
  EXPECT_THAT(copying.failed_.at(2).message(), HasSubstr("digest"));
}

TEST_F(SlotCopierTest, SourceOfAnotherIncarnationOrThatIsGoneFailsItsSlotsOnly) {
  Copying copying = MakeCopying();
  copying.AddSource("a:1", Incarnation(99));
  copying.AddSource("nobody:1");
  copying.AddSource("a:1");
  copying.Want(2, 0);
  copying.Want(4, 1);
  copying.Want(6, 2);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.failed_.at(2).code(), StatusCode::kWrongIncarnation);
  EXPECT_EQ(copying.failed_.at(4).code(), StatusCode::kUnavailable);
  EXPECT_TRUE(copying.loaded_.contains(6));
}

TEST_F(SlotCopierTest, SourceThatAnswersNoReadIsGivenUp) {
  network_.SetDelay("a:1", seconds(3600));
  SlotCopier::Options options;
  options.stall_max = milliseconds(100);
  Copying copying = MakeCopying(options);
  copying.AddSource("a:1");
  copying.Want(2);
  copying.Want(4);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.failed_.at(2).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(copying.failed_.at(4).code(), StatusCode::kDeadlineExceeded);
}

TEST_F(SlotCopierTest, CancelEndsACopyThatWaits) {
  network_.Hold("a:1");
  Copying copying = MakeCopying();
  copying.AddSource("a:1");
  copying.Want(2);
  std::thread canceller([&] {
    std::this_thread::sleep_for(milliseconds(50));
    copying.control_.Cancel();
  });
  EXPECT_EQ(copying.Run().code(), StatusCode::kCancelled);
  canceller.join();
  EXPECT_TRUE(copying.loaded_.empty());
}

TEST_F(SlotCopierTest, DroppedSlotsAreLeftWhereTheyAreAndToldNothingOf) {
  Copying copying = MakeCopying();
  copying.AddSource("a:1");
  for (const uint32_t slot : {2u, 4u, 6u}) copying.Want(slot);
  copying.control_.Drop(std::vector<SlotIndex>{SlotIndex(4)});
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.loaded_.size(), 2u);
  EXPECT_TRUE(copying.failed_.empty());
}

TEST_F(SlotCopierTest, PausedCopyGoesOnWhenItMay) {
  Copying copying = MakeCopying();
  copying.AddSource("a:1");
  copying.Want(2);
  copying.control_.SetPaused(true);
  std::thread releaser([&] {
    std::this_thread::sleep_for(milliseconds(50));
    EXPECT_EQ(copying.control_.bytes_done(), 0u);
    copying.control_.SetPaused(false);
  });
  ASSERT_TRUE(copying.Run().ok());
  releaser.join();
  EXPECT_EQ(copying.loaded_.size(), 1u);
}

TEST_F(SlotCopierTest, NoFasterThanAllowed) {
  Copying copying = MakeCopying();
  copying.AddSource("a:1");
  uint64_t bytes = 0;
  for (uint32_t slot = 0; slot < 60; slot += 2) {
    copying.Want(slot);
    bytes += layout_->slot_bytes(SlotIndex(slot));
  }
  copying.copier_.SetRateMax(bytes * 2);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_TRUE(copying.Run().ok());
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  // Half a second, less the burst and the last piece.
  EXPECT_GE(taken.count(), 0.35);
  EXPECT_EQ(copying.loaded_.size(), 30u);
}

TEST_F(SlotCopierTest, NoTransportFailsEverySlotWithItsReason) {
  Copying copying(layout_, []() -> Result<std::unique_ptr<Transport>> {
    return Error(StatusCode::kUnavailable, "no device");
  });
  copying.AddSource("a:1");
  copying.Want(2);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.failed_.at(2).code(), StatusCode::kUnavailable);
}

// Over UCX, two nodes' worth of it in this process.
class UcxSlotCopierTest : public testing::TestWithParam<test::UcxSetting>, public test::UcxFixture {
 protected:
  UcxSlotCopierTest() : UcxFixture(GetParam()) { StartServer(ServerOptions()); }
  Copying MakeCopying() {
    return Copying(layout_, [this] { return UcxTransport::Create(ReaderOptions()); });
  }
};

TEST_P(UcxSlotCopierTest, SlotsComeWholeFromTwoNodesAtOnce) {
  UcxRowServerOptions options = ServerOptions();
  options.incarnation = Incarnation(2);
  const auto other = UcxRowServer::Create(options).value();
  const auto odd =
      test::FillSlots(*other, kVersion, layout_, [](uint32_t s) { return s % 2 == 1; });
  other->Serve(odd);
  Copying copying = MakeCopying();
  copying.AddSource(server_->address());
  copying.AddSource(other->address(), Incarnation(2));
  for (uint32_t slot = 0; slot < layout_->slot_count(); ++slot) copying.Want(slot, slot % 2);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.loaded_.size(), layout_->slot_count());
  EXPECT_TRUE(copying.failed_.empty());
  copying.ExpectLoadedSlotsAreRight();
  EXPECT_GT(copying.copier_.bytes_per_s(), 0u);
}

TEST_P(UcxSlotCopierTest, SourceWithAFlippedByteLosesThatSlotOnly) {
  auto* const row = const_cast<std::byte*>(slots_->Rows(SlotIndex(6)));
  row[layout_->row_stride() + 3] ^= std::byte{1};
  Copying copying = MakeCopying();
  copying.AddSource(server_->address());
  for (const uint32_t slot : {4u, 6u, 8u}) copying.Want(slot);
  ASSERT_TRUE(copying.Run().ok());
  EXPECT_EQ(copying.failed_.at(6).code(), StatusCode::kCorrupt);
  EXPECT_EQ(copying.loaded_.size(), 2u);
  copying.ExpectLoadedSlotsAreRight();
}

TEST_P(UcxSlotCopierTest, SourceKilledInTheMiddleFailsTheRestAndNothingWrongIsTaken) {
  Copying copying = MakeCopying();
  copying.AddSource(server_->address());
  uint64_t bytes = 0;
  for (uint32_t slot = 0; slot < layout_->slot_count(); slot += 2) {
    copying.Want(slot);
    bytes += layout_->slot_bytes(SlotIndex(slot));
  }
  copying.copier_.SetRateMax(bytes);  // a second
  std::thread killer([&] {
    while (copying.control_.bytes_done() == 0) std::this_thread::sleep_for(milliseconds(1));
    server_.reset();
  });
  ASSERT_TRUE(copying.Run().ok());
  killer.join();
  EXPECT_FALSE(copying.loaded_.empty());
  EXPECT_FALSE(copying.failed_.empty());
  EXPECT_EQ(copying.loaded_.size() + copying.failed_.size(), copying.job_.slots.size());
  copying.ExpectLoadedSlotsAreRight();
}

INSTANTIATE_TEST_SUITE_P(Transports, UcxSlotCopierTest,
                         testing::Values(test::UcxSetting{"tcp", "tcp", "off", ReadWay::kGather},
                                         test::UcxSetting{"shm", "shm", "off", ReadWay::kGather}),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace engram
