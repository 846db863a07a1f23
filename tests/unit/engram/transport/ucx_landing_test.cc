// One-sided reads into memory that stands for a GPU's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/host_landing.h"
#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

using test::HostLanding;
using testing::HasSubstr;
using testing::Not;

constexpr test::UcxSetting kOneSided{"ShmOneSided", "shm", "shm", ReadWay::kOneSided};

class UcxLandingTest : public ::testing::Test, public test::UcxFixture {
 protected:
  UcxLandingTest() : UcxFixture(kOneSided) { StartServer(ServerOptions()); }
  ~UcxLandingTest() override {
    reader_.reset();
    transport_.reset();
  }
  void Begin(ReadWay way = ReadWay::kOneSided) {
    UcxTransportOptions options = ReaderOptions();
    options.way = way;
    options.landing = &landing_;
    StartReader(options);
  }
  [[nodiscard]] Status Check(const char* one_sided) {
    UcxTransportOptions options = ReaderOptions();
    options.one_sided = one_sided;
    options.landing = &landing_;
    return UcxTransport::CheckLanding(options);
  }
  void ExpectReads(SessionId session) {
    uint64_t tag = 0;
    for (const size_t count : {1u, 128u, 129u, 1500u}) {
      const auto rows = OwnedRows(count, count);
      ExpectStored(Read(session, ++tag, rows), rows);
    }
  }

  HostLanding landing_;
};

TEST_F(UcxLandingTest, RowsComeInItsMemory) {
  EXPECT_TRUE(Check("shm").ok());
  Begin();
  const SessionId session = OpenSession();
  EXPECT_EQ(events_->opened.at(session).way, ReadWay::kOneSided);
  EXPECT_THAT(events_->opened.at(session).reason, HasSubstr("rows land in the GPU's memory"));
  EXPECT_EQ(landing_.blocks, 1u);
  ExpectReads(session);
  EXPECT_EQ(events_->rows_landed, 1u + 128 + 129 + 1500);
  reader_->Close(session);
  ASSERT_TRUE(Drive([&] { return events_->closed.contains(session) && landing_.blocks == 0; }));
}

// Rows that a node does not own come by a message, which says why.
TEST_F(UcxLandingTest, WhatIsGatheredIsNotSaidToHaveLanded) {
  Begin();
  const SessionId session = OpenSession();
  auto rows = test::SomeRows(*layout_, 300);
  const test::RecordedRead& read = Read(session, 1, rows);
  ASSERT_EQ(read.done, StatusCode::kOk);
  for (size_t i = 0; i < rows.size(); ++i) {
    const bool owned = layout_->SlotOf(rows[i]).value() % 2 == 0;
    EXPECT_EQ(read.statuses[i], owned ? StatusCode::kOk : StatusCode::kNotOwned) << i;
  }
  EXPECT_EQ(events_->rows_landed, 0u);
}

TEST_F(UcxLandingTest, MemoryThatShowsOtherBytesThanGatherIsNotUsed) {
  landing_.copies_wrong = true;
  Begin(ReadWay::kAuto);
  const SessionId session = OpenSession();
  EXPECT_NE(events_->opened.at(session).way, ReadWay::kOneSided);
  EXPECT_THAT(events_->opened.at(session).reason, HasSubstr("rows differ from gather's"));
  ExpectReads(session);
  EXPECT_EQ(events_->rows_landed, 0u);
}

TEST_F(UcxLandingTest, WithoutRoomThereRowsComeIntoTheHosts) {
  landing_.blocks_max = 0;
  EXPECT_THAT(Check("shm").message(), HasSubstr("the GPU is full"));
  Begin();
  const SessionId session = OpenSession();
  EXPECT_EQ(events_->opened.at(session).way, ReadWay::kOneSided);
  EXPECT_THAT(events_->opened.at(session).reason, HasSubstr("the GPU is full"));
  EXPECT_THAT(events_->opened.at(session).reason, Not(HasSubstr("rows land")));
  ExpectReads(session);
  EXPECT_EQ(events_->rows_landed, 0u);
}

TEST_F(UcxLandingTest, TheCheckLooksAtWhatCameThere) {
  landing_.copies_wrong = true;
  EXPECT_THAT(Check("shm").message(), HasSubstr("other bytes than are there"));
  EXPECT_EQ(landing_.blocks, 0u);
}

// This machine has no card.
TEST_F(UcxLandingTest, TheCheckSaysWhatIsMissingForAGpu) {
  landing_.claims_gpu = true;
  for (const char* const one_sided : {"rdma", "shm", "off"}) {
    const Status status = Check(one_sided);
    ASSERT_FALSE(status.ok()) << one_sided;
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  }
  EXPECT_THAT(Check("shm").message(), HasSubstr("cannot write to a GPU's"));
  EXPECT_THAT(Check("off").message(), HasSubstr("one-sided reads are off"));
}

}  // namespace
}  // namespace engram
