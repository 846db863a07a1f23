#include "engram/transport/lease.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

using std::chrono::milliseconds;
const MonotonicTime kStart{std::chrono::seconds(100)};

TEST(HeldLeaseTest, RunsFromTheMomentOfSendingNotOfTheGrant) {
  HeldLease lease;
  EXPECT_FALSE(lease.ValidAt(kStart));
  const uint64_t sequence = lease.StartRequest(kStart);
  EXPECT_TRUE(lease.Accept(sequence, milliseconds(100)));
  EXPECT_TRUE(lease.ValidAt(kStart + milliseconds(99)));
  EXPECT_FALSE(lease.ValidAt(kStart + milliseconds(100)));
}

TEST(HeldLeaseTest, GrantOfNothingIsNoRenewal) {
  HeldLease lease;
  EXPECT_TRUE(lease.Accept(lease.StartRequest(kStart), milliseconds(100)));
  EXPECT_TRUE(lease.Accept(lease.StartRequest(kStart + milliseconds(50)), milliseconds(0)));
  EXPECT_TRUE(lease.ValidAt(kStart + milliseconds(99)));
  EXPECT_FALSE(lease.ValidAt(kStart + milliseconds(100)));
}

TEST(HeldLeaseTest, GrantsOutOfOrderUnaskedOrTooOldChangeNothing) {
  HeldLease lease;
  const uint64_t first = lease.StartRequest(kStart);
  const uint64_t second = lease.StartRequest(kStart + milliseconds(10));
  EXPECT_TRUE(lease.Accept(second, milliseconds(100)));
  EXPECT_FALSE(lease.Accept(first, milliseconds(1000)));
  EXPECT_FALSE(lease.Accept(second, milliseconds(1000)));
  EXPECT_FALSE(lease.Accept(second + 1, milliseconds(1000)));
  EXPECT_FALSE(lease.Accept(0, milliseconds(1000)));
  EXPECT_FALSE(lease.ValidAt(kStart + milliseconds(110)));
  for (int i = 0; i < 9; ++i) (void)lease.StartRequest(kStart + milliseconds(20));
  EXPECT_FALSE(lease.Accept(second + 1, milliseconds(1000)));
}

constexpr TableVersion kVersion(3);

class LeaseBookTest : public testing::Test {
 protected:
  void Open(uint64_t session) { book_.Open(session, kVersion, kStart); }
  bool Renew(uint64_t session, uint64_t epoch, uint64_t directory, MonotonicTime end) {
    return book_.Renew(session, {Epoch(epoch), directory}, end);
  }
  LeaseBook book_;
};

TEST_F(LeaseBookTest, OldMapIsInUseUntilAcknowledgedOrTheSessionAndItsLeaseHaveEnded) {
  EXPECT_TRUE(book_.AllAcknowledged(kVersion, Epoch(2), kStart));
  Open(1);
  Open(2);
  EXPECT_TRUE(Renew(1, 1, 0, kStart + milliseconds(100)));
  EXPECT_TRUE(Renew(2, 2, 0, kStart + milliseconds(500)));
  EXPECT_FALSE(book_.AllAcknowledged(kVersion, Epoch(2), kStart + milliseconds(99)));
  EXPECT_TRUE(book_.AllAcknowledged(TableVersion(4), Epoch(9), kStart));
  book_.Close(1);
  EXPECT_FALSE(book_.AllAcknowledged(kVersion, Epoch(2), kStart + milliseconds(99)));
  EXPECT_TRUE(book_.AllAcknowledged(kVersion, Epoch(2), kStart + milliseconds(100)));
  EXPECT_EQ(book_.size(), 1u);
}

TEST_F(LeaseBookTest, SessionThatOnlyGathersCountsUntilItAcknowledgesOrEnds) {
  Open(1);
  EXPECT_FALSE(Renew(1, 1, kNoDirectory, MonotonicTime::min()));
  EXPECT_FALSE(book_.AllAcknowledged(kVersion, Epoch(2), kStart + std::chrono::hours(1)));
  EXPECT_FALSE(Renew(1, 2, kNoDirectory, MonotonicTime::min()));
  EXPECT_TRUE(book_.AllAcknowledged(kVersion, Epoch(2), kStart));
  EXPECT_FALSE(book_.AllAcknowledged(kVersion, Epoch(3), kStart));
  book_.Close(1);
  EXPECT_TRUE(book_.AllAcknowledged(kVersion, Epoch(3), kStart));
  EXPECT_EQ(book_.size(), 0u);
}

TEST_F(LeaseBookTest, SessionsThatAreOverAreForgottenThoughNobodyAsks) {
  for (uint64_t session = 1; session <= 1000; ++session) {
    const MonotonicTime now = kStart + milliseconds(session);
    book_.Open(session, kVersion, now);
    EXPECT_TRUE(Renew(session, 1, 0, now + milliseconds(10)));
    book_.Close(session);
  }
  EXPECT_LE(book_.size(), 11u);  // whose leases run
}

TEST_F(LeaseBookTest, ProgressNeverGoesBack) {
  Open(1);
  EXPECT_TRUE(Renew(1, 5, 8, kStart + milliseconds(100)));
  EXPECT_TRUE(Renew(1, 4, 7, kStart + milliseconds(200)));
  EXPECT_TRUE(book_.AllAcknowledged(kVersion, Epoch(5), kStart));
  EXPECT_TRUE(book_.NoneBehind(kVersion, 9, {Epoch(5), 8}, kStart));
}

TEST_F(LeaseBookTest, LeaseIsRenewedOnlyWithTheProgressRequiredAndRunsOnWithout) {
  Open(1);
  EXPECT_TRUE(Renew(1, 1, 5, kStart + milliseconds(100)));
  const ReaderProgress least{Epoch(2), 6};
  const uint64_t required = book_.Require(kVersion, least);
  EXPECT_FALSE(Renew(1, 1, 5, kStart + milliseconds(200)));
  EXPECT_FALSE(Renew(1, 2, 5, kStart + milliseconds(200)));
  EXPECT_FALSE(book_.NoneBehind(kVersion, required, least, kStart + milliseconds(99)));
  EXPECT_TRUE(book_.NoneBehind(kVersion, required, least, kStart + milliseconds(100)));
  EXPECT_TRUE(Renew(1, 2, 6, kStart + milliseconds(200)));
  EXPECT_TRUE(book_.NoneBehind(kVersion, required, least, kStart + milliseconds(150)));
}

TEST_F(LeaseBookTest, SessionOpenedAfterTheRequirementIsNotHeldToIt) {
  Open(1);
  const ReaderProgress least{Epoch(2), 6};
  const uint64_t required = book_.Require(kVersion, least);
  Open(2);
  EXPECT_TRUE(Renew(2, 0, 0, kStart + milliseconds(100)));
  EXPECT_TRUE(book_.NoneBehind(kVersion, required, least, kStart));
}

TEST_F(LeaseBookTest, LeaseOfAnEndedSessionIsWaitedForAndASessionThatIsNotThereGetsNone) {
  Open(1);
  EXPECT_TRUE(Renew(1, 1, 5, kStart + milliseconds(100)));
  book_.Close(1);
  const uint64_t required = book_.Require(kVersion, {Epoch(2), 6});
  EXPECT_FALSE(Renew(1, 9, 9, kStart + milliseconds(300)));
  EXPECT_FALSE(Renew(7, 9, 9, kStart + milliseconds(300)));
  EXPECT_FALSE(book_.NoneBehind(kVersion, required, {Epoch(2), 6}, kStart + milliseconds(99)));
  EXPECT_TRUE(book_.NoneBehind(kVersion, required, {Epoch(2), 6}, kStart + milliseconds(100)));
}

}  // namespace
}  // namespace engram
