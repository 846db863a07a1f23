#include "engram/transport/read_queue.h"

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

constexpr uint32_t kCost = ReadQueue::kReadCost;

struct Fixture {
  explicit Fixture(uint64_t rows_max = 1u << 20, bool fair = true)
      : queue({.rows_max = rows_max, .fair = fair}) {}

  QueuedRead* Push(QueuedClient* client, uint32_t rows,
                   MonotonicTime wanted_by = MonotonicTime::max()) {
    EXPECT_TRUE(queue.Admit(client, rows));
    reads.push_back(std::make_unique<QueuedRead>());
    reads.back()->rows = rows;
    reads.back()->wanted_by = wanted_by;
    queue.Push(client, reads.back().get());
    return reads.back().get();
  }
  QueuedRead* Pop() {
    QueuedClient* const client = queue.Front();
    return client == nullptr ? nullptr : queue.Pop(client);
  }

  std::vector<std::unique_ptr<QueuedRead>> reads;
  ReadQueue queue;
};

// The only one of its holder.
struct LoneClient : QueuedHolder, QueuedClient {
  LoneClient() : QueuedClient(this) {}
};

MonotonicTime At(int ms) { return MonotonicTime(std::chrono::milliseconds(ms)); }

TEST(ReadQueueTest, ASmallReadGoesBeforeLargeOnesThatCameEarlier) {
  Fixture f;
  LoneClient greedy, other, small;
  for (int i = 0; i < 8; ++i) {
    f.Push(&greedy, 1024);
    f.Push(&other, 1024);
  }
  (void)f.Pop();
  const QueuedRead* const decode = f.Push(&small, 48);
  EXPECT_EQ(f.Pop(), decode);
}

TEST(ReadQueueTest, ASteadySmallClientIsBehindAtMostOneReadOfEachTurn) {
  Fixture f;
  LoneClient greedy[2], small;
  for (LoneClient& client : greedy) {
    for (int i = 0; i < 32; ++i) f.Push(&client, 1024);
  }
  for (int step = 0; step < 20; ++step) {
    (void)f.Pop();  // being answered when the small one comes
    const QueuedRead* const decode = f.Push(&small, 48);
    EXPECT_EQ(f.Pop(), decode) << "step " << step;
  }
}

TEST(ReadQueueTest, BusyClientsGetTheSameRowsWhateverTheirReadsSizes) {
  Fixture f;
  LoneClient clients[3];
  const uint32_t sizes[3] = {64, 512, 2048};
  uint64_t rows[3] = {};
  for (int c = 0; c < 3; ++c) {
    for (uint32_t i = 0; i < 65536 / sizes[c]; ++i) f.Push(&clients[c], sizes[c]);
  }
  uint64_t taken = 0;
  while (taken < 90000) {
    const QueuedRead* const read = f.Pop();
    for (int c = 0; c < 3; ++c) {
      if (read->rows == sizes[c]) rows[c] += read->rows + kCost;
    }
    taken += read->rows;
  }
  for (const uint64_t got : rows) EXPECT_NEAR(static_cast<double>(got), 31000.0, 2048 + 1000);
}

TEST(ReadQueueTest, WhoWasIdleHasSavedNothingUp) {
  Fixture f;
  LoneClient busy, late;
  for (int i = 0; i < 100; ++i) f.Push(&busy, 100);
  for (int i = 0; i < 50; ++i) (void)f.Pop();
  for (int i = 0; i < 50; ++i) f.Push(&late, 100);
  int of_late = 0;
  for (int i = 0; i < 20; ++i) {
    const QueuedClient* const client = f.queue.Front();
    of_late += client == &late;
    (void)f.Pop();
  }
  EXPECT_NEAR(of_late, 10, 1);
}

TEST(ReadQueueTest, OneClientsReadsGoByWhenTheyAreWanted) {
  Fixture f;
  LoneClient client;
  const QueuedRead* const whenever = f.Push(&client, 10);
  const QueuedRead* const late = f.Push(&client, 10, At(20));
  const QueuedRead* const soon = f.Push(&client, 10, At(10));
  const QueuedRead* const as_soon = f.Push(&client, 10, At(10));
  EXPECT_EQ(f.Pop(), soon);
  EXPECT_EQ(f.Pop(), as_soon);
  EXPECT_EQ(f.Pop(), late);
  EXPECT_EQ(f.Pop(), whenever);
  EXPECT_EQ(f.Pop(), nullptr);
  EXPECT_TRUE(client.empty());
}

TEST(ReadQueueTest, WhoClaimsToBeInAHurryTakesNothingFromOthers) {
  Fixture f;
  LoneClient honest, liar;
  for (int i = 0; i < 10; ++i) {
    f.Push(&honest, 100);
    f.Push(&liar, 100, At(1));
  }
  int of_liar = 0;
  for (int i = 0; i < 10; ++i) {
    of_liar += f.queue.Front() == &liar;
    (void)f.Pop();
  }
  EXPECT_NEAR(of_liar, 5, 1);
}

TEST(ReadQueueTest, AClientMayHaveAsMuchAsIsFree) {
  Fixture f(1000 * (100 + kCost));
  LoneClient first, second, third;
  const auto fill = [&f](QueuedClient* client) {
    int reads = 0;
    while (f.queue.Admit(client, 100)) ++reads;
    return reads;
  };
  EXPECT_EQ(fill(&first), 334);
  EXPECT_EQ(fill(&second), 222);
  EXPECT_EQ(fill(&third), 148);
  // The first has too much by now: it gets no more until it has had its share answered.
  EXPECT_FALSE(f.queue.Admit(&first, 1));
  for (int i = 0; i < 334; ++i) f.queue.Forget(&first, 100);
  EXPECT_TRUE(first.empty());
  EXPECT_TRUE(f.queue.Admit(&first, 100));
}

TEST(ReadQueueTest, HoweverManyClientsAHolderClaimsToBeItHasHalfOfTheRoom) {
  Fixture f(1000 * (100 + kCost));
  QueuedHolder many;
  std::vector<QueuedClient> clients(1000, QueuedClient(&many));
  int reads = 0;
  for (QueuedClient& client : clients) {
    while (f.queue.Admit(&client, 100)) ++reads;
  }
  EXPECT_EQ(reads, 500);
  LoneClient other;
  EXPECT_TRUE(f.queue.Admit(&other, 100));
}

TEST(ReadQueueTest, HoweverManyClientsAHolderClaimsToBeItHasTheTurnsOfOne) {
  Fixture f;
  QueuedHolder many;
  std::vector<QueuedClient> clients(50, QueuedClient(&many));
  LoneClient other;
  for (QueuedClient& client : clients) {
    for (int i = 0; i < 20; ++i) f.Push(&client, 100);
  }
  for (int i = 0; i < 500; ++i) f.Push(&other, 100);
  int of_other = 0;
  for (int i = 0; i < 400; ++i) {
    of_other += f.queue.Front() == &other;
    (void)f.Pop();
  }
  EXPECT_NEAR(of_other, 200, 20);
}

TEST(ReadQueueTest, AHoldersSmallReadsHoldNobodysUp) {
  Fixture f;
  QueuedHolder many;
  std::vector<QueuedClient> clients(500, QueuedClient(&many));
  LoneClient other;
  for (QueuedClient& client : clients) f.Push(&client, 1);
  (void)f.Pop();
  const QueuedRead* const decode = f.Push(&other, 48);
  int before = 0;
  while (f.Pop() != decode) ++before;
  EXPECT_LE(before, 3);  // 17 rows each, as all of the holder's together
}

TEST(ReadQueueTest, WhoIsSetAsideWaitsAndLosesNothing) {
  Fixture f;
  LoneClient blocked, other;
  const QueuedRead* const first = f.Push(&blocked, 10);
  const QueuedRead* const second = f.Push(&other, 500);
  ASSERT_EQ(f.queue.Front(), &blocked);
  f.queue.SetAside(&blocked);
  const QueuedRead* const third = f.Push(&blocked, 10);
  EXPECT_EQ(f.Pop(), second);
  EXPECT_EQ(f.queue.Front(), nullptr);
  f.queue.BringBack();
  EXPECT_EQ(f.Pop(), first);
  EXPECT_EQ(f.Pop(), third);
}

TEST(ReadQueueTest, InTheirOrderWhenItIsNotFair) {
  Fixture f(1u << 20, /*fair=*/false);
  LoneClient a, b;
  const QueuedRead* const first = f.Push(&a, 4000);
  const QueuedRead* const second = f.Push(&a, 4000, At(1));
  const QueuedRead* const third = f.Push(&b, 1);
  EXPECT_EQ(f.Pop(), first);
  EXPECT_EQ(f.Pop(), second);
  EXPECT_EQ(f.Pop(), third);
}

// Whatever comes in whatever order: every read comes out once, and the room is whole again.
TEST(ReadQueueTest, NothingIsLostOrTwice) {
  std::mt19937_64 random(5);
  Fixture f(20000);
  LoneClient clients[9];
  std::vector<QueuedRead*> out;
  size_t set_aside = 0;
  for (int step = 0; step < 20000; ++step) {
    QueuedClient* const client = &clients[random() % 9];
    const auto rows = static_cast<uint32_t>(1 + random() % 600);
    switch (random() % 5) {
      case 0:
      case 1:
        if (!f.queue.Admit(client, rows)) break;
        f.queue.Forget(client, rows);
        f.Push(client, rows, At(static_cast<int>(random() % 50)));
        break;
      case 2:
        if (f.queue.Front() != nullptr && random() % 4 == 0) {
          f.queue.SetAside(f.queue.Front());
          ++set_aside;
        }
        break;
      case 3:
        if (random() % 4 == 0) f.queue.BringBack();
        break;
      default:
        if (QueuedRead* const read = f.Pop(); read != nullptr) out.push_back(read);
    }
  }
  f.queue.BringBack();
  while (QueuedRead* const read = f.Pop()) out.push_back(read);
  EXPECT_GT(set_aside, 100u);
  ASSERT_EQ(out.size(), f.reads.size());
  std::sort(out.begin(), out.end());
  EXPECT_EQ(std::adjacent_find(out.begin(), out.end()), out.end());
  EXPECT_EQ(f.queue.rows_waiting(), 0u);
  for (const LoneClient& client : clients) EXPECT_TRUE(client.empty());
}

}  // namespace
}  // namespace engram
