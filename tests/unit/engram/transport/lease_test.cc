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

TEST(LeaseBookTest, OldMapIsInUseUntilAcknowledgedOrEnded) {
  LeaseBook book;
  const TableVersion version(3);
  EXPECT_TRUE(book.AllAcknowledged(version, Epoch(2), kStart));
  book.Grant(1, version, Epoch(1), kStart + milliseconds(100));
  book.Grant(2, version, Epoch(2), kStart + milliseconds(500));
  EXPECT_FALSE(book.AllAcknowledged(version, Epoch(2), kStart + milliseconds(99)));
  EXPECT_TRUE(book.AllAcknowledged(TableVersion(4), Epoch(9), kStart));
  EXPECT_TRUE(book.AllAcknowledged(version, Epoch(2), kStart + milliseconds(100)));
  EXPECT_EQ(book.size(), 1u);
}

TEST(LeaseBookTest, AcknowledgementNeverGoesBack) {
  LeaseBook book;
  const TableVersion version(3);
  book.Grant(1, version, Epoch(5), kStart + milliseconds(100));
  book.Grant(1, version, Epoch(4), kStart + milliseconds(200));
  EXPECT_TRUE(book.AllAcknowledged(version, Epoch(5), kStart));
  book.Acknowledge(1, Epoch(6));
  book.Acknowledge(9, Epoch(6));
  EXPECT_TRUE(book.AllAcknowledged(version, Epoch(6), kStart));
  EXPECT_FALSE(book.AllAcknowledged(version, Epoch(7), kStart + milliseconds(199)));
}

}  // namespace
}  // namespace engram
