#include "client/row_lookup.h"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using test::LoopbackCluster;

class RowLookupTest : public ::testing::Test {
 protected:
  void SetUp() override { Make(std::chrono::seconds(60)); }
  void Make(std::chrono::milliseconds deadline) {
    RowLookupOptions options;
    options.version = test::kTestVersion;
    options.identity = test::SmallIdentity();
    options.deadline = deadline;
    lookup_ = *RowLookup::Create(options, cluster_.network.CreateTransport(), cluster_.layout,
                                 cluster_.maps);
  }
  Status Read(const std::vector<RowAddress>& rows) {
    bytes_.assign(rows.size() * cluster_.layout->row_bytes(), std::byte{0});
    statuses_.assign(rows.size(), StatusCode::kInternal);
    return lookup_->ReadRows(rows, bytes_, statuses_);
  }
  bool RightRow(size_t i, RowAddress address) const {
    const auto stored = test::StoredRow(*cluster_.layout, test::kTestVersion, address);
    const size_t row_bytes = cluster_.layout->row_bytes();
    return std::memcmp(bytes_.data() + i * row_bytes, stored.data(), row_bytes) == 0;
  }

  LoopbackCluster cluster_{2};
  std::unique_ptr<RowLookup> lookup_;
  std::vector<std::byte> bytes_;
  std::vector<StatusCode> statuses_;
};

TEST_F(RowLookupTest, RowsComeInTheOrderAskedRepeatsIncluded) {
  auto rows = test::SomeRows(*cluster_.layout, 5000);
  rows.push_back(rows.front());
  const Status status = Read(rows);
  ASSERT_TRUE(status.ok()) << status.ToString();
  for (size_t i = 0; i < rows.size(); ++i) ASSERT_TRUE(RightRow(i, rows[i])) << i;
  EXPECT_THAT(statuses_, ::testing::Each(StatusCode::kOk));
}

TEST_F(RowLookupTest, AddressThatNamesNoRowDoesNotSpoilTheOthers) {
  auto rows = test::SomeRows(*cluster_.layout, 3);
  rows.insert(rows.begin() + 1, RowAddress(~uint64_t{0}));
  EXPECT_EQ(Read(rows).code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(statuses_, ::testing::ElementsAre(StatusCode::kOk, StatusCode::kInvalidArgument,
                                                StatusCode::kOk, StatusCode::kOk));
  EXPECT_TRUE(RightRow(3, rows[3]));
}

TEST_F(RowLookupTest, DamagedRowsAreCorruptAndReported) {
  Make(std::chrono::seconds(2));
  cluster_.network.CorruptRows(LoopbackCluster::Address(0), 1u << 30);
  const auto rows = test::SomeRows(*cluster_.layout, 50);
  const Status status = Read(rows);
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  for (size_t i = 0; i < rows.size(); ++i) {
    const bool on_damaged_node = cluster_.layout->SlotOf(rows[i]).value() % 2 == 0;
    EXPECT_EQ(statuses_[i], on_damaged_node ? StatusCode::kCorrupt : StatusCode::kOk);
  }
  EXPECT_GT(cluster_.maps->slots_reported(), 0u);
}

TEST_F(RowLookupTest, LostNodeIsUnavailableAndReadAgainWhenBack) {
  const auto rows = test::SomeRows(*cluster_.layout, 50);
  ASSERT_TRUE(Read(rows).ok());
  Make(std::chrono::seconds(2));
  cluster_.network.Lose(LoopbackCluster::Address(1));
  const Status status = Read(rows);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("memory node m1"));
  cluster_.StartNode(1);
  cluster_.maps->Set(cluster_.Map(2));
  Make(std::chrono::seconds(60));
  EXPECT_TRUE(Read(rows).ok());
}

TEST_F(RowLookupTest, NothingAskedIsOk) { EXPECT_TRUE(Read({}).ok()); }

TEST_F(RowLookupTest, TooManyRowsAreRefused) {
  const std::vector<RowAddress> rows(kLookupRowsMax + 1);
  EXPECT_EQ(Read(rows).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
