// The collective over MPI. Every rank runs every test (mpirun -np N), in the same order.
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/collectives/agreement.h"
#include "model_worker/collectives/host_share.h"
#include "model_worker/collectives/mpi_ranks.h"

namespace engram {
namespace {

using testing::HasSubstr;

Collective* g_ranks = nullptr;

std::vector<float> ValuesOf(uint32_t rank, size_t count) {
  std::mt19937 random(rank * 1000 + static_cast<uint32_t>(count));
  std::normal_distribution<float> values;
  std::vector<float> out(count);
  for (float& value : out) value = values(random);
  return out;
}

TEST(MpiCollectiveTest, SumsAreThoseOfTheTreeToTheBitOnEveryRank) {
  // The last one is more than is added at a time.
  for (const size_t count :
       {size_t{0}, size_t{1}, size_t{7}, size_t{4096}, (size_t{1} << 20) + 5}) {
    std::vector<std::vector<float>> sums;
    for (uint32_t rank = 0; rank < g_ranks->rank_count(); ++rank) {
      sums.push_back(ValuesOf(rank, count));
    }
    for (; sums.size() > 1; sums.resize(sums.size() / 2)) {
      for (size_t i = 0; i < sums.size() / 2; ++i) {
        std::vector<float> sum = sums[2 * i];
        for (size_t v = 0; v < count; ++v) sum[v] += sums[2 * i + 1][v];
        sums[i] = std::move(sum);
      }
    }
    std::vector<float> values = ValuesOf(g_ranks->rank(), count);
    ASSERT_TRUE(g_ranks->AllReduce(values).ok());
    // (memcmp of nothing wants pointers all the same.)
    if (count != 0) {
      EXPECT_EQ(std::memcmp(values.data(), sums[0].data(), count * sizeof(float)), 0) << count;
    }
  }
  EXPECT_GE(g_ranks->stats().reduces, 5u);
}

// What rank r shows of `bytes` bytes.
std::byte ByteOf(uint32_t rank, size_t at) {
  return static_cast<std::byte>(rank * 41 + at * 7 + at / 256);
}

TEST(MpiCollectiveTest, EveryRankSeesEveryBlockOfAnyLength) {
  for (const size_t unit : {size_t{0}, size_t{1}, size_t{1000}, size_t{300000}}) {
    std::vector<std::vector<std::byte>> blocks(g_ranks->rank_count());
    std::vector<std::span<std::byte>> spans;
    for (uint32_t rank = 0; rank < blocks.size(); ++rank) {
      blocks[rank].resize(unit * rank);  // rank 0 has none
      for (size_t i = 0; rank == g_ranks->rank() && i < blocks[rank].size(); ++i) {
        blocks[rank][i] = ByteOf(rank, i);
      }
      spans.emplace_back(blocks[rank]);
    }
    ASSERT_TRUE(g_ranks->AllGather(spans).ok());
    for (uint32_t rank = 0; rank < blocks.size(); ++rank) {
      for (size_t i = 0; i < blocks[rank].size(); ++i) {
        ASSERT_EQ(blocks[rank][i], ByteOf(rank, i)) << unit << " " << rank << " " << i;
      }
    }
  }
}

TEST(MpiCollectiveTest, RankZeroGathers) {
  constexpr size_t kBytes = 100000;
  std::vector<std::vector<std::byte>> blocks(g_ranks->rank_count());
  std::vector<std::span<std::byte>> spans(g_ranks->rank_count());
  for (uint32_t rank = 0; rank < blocks.size(); ++rank) {
    if (rank != g_ranks->rank() && g_ranks->rank() != 0) continue;
    blocks[rank].resize(kBytes);
    for (size_t i = 0; rank == g_ranks->rank() && i < kBytes; ++i)
      blocks[rank][i] = ByteOf(rank, i);
    spans[rank] = blocks[rank];
  }
  ASSERT_TRUE(g_ranks->Gather(spans).ok());
  if (g_ranks->rank() != 0) return;
  for (uint32_t rank = 0; rank < blocks.size(); ++rank) {
    for (size_t i = 0; i < kBytes; ++i) ASSERT_EQ(blocks[rank][i], ByteOf(rank, i));
  }
}

TEST(MpiCollectiveTest, MessagesOfAnySizeComeInOrderAlsoAfterAPause) {
  const size_t sizes[] = {0, 1, 100, 5000000, 3};
  if (g_ranks->rank() == 0) {
    for (size_t i = 0; i < std::size(sizes); ++i) {
      // Longer than a follower spins.
      if (i == 2) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      std::vector<std::byte> message(sizes[i], static_cast<std::byte>(i + 1));
      ASSERT_TRUE(g_ranks->Send(message).ok());
    }
    return;
  }
  std::vector<std::byte> message;
  for (size_t i = 0; i < std::size(sizes); ++i) {
    ASSERT_TRUE(g_ranks->Receive(&message).ok());
    EXPECT_EQ(message, std::vector<std::byte>(sizes[i], static_cast<std::byte>(i + 1)));
  }
}

TEST(MpiCollectiveTest, OneRanksErrorIsEverybodys) {
  EXPECT_TRUE(AgreeOn(g_ranks, {}).ok());
  const uint32_t last = g_ranks->rank_count() - 1;
  const Status mine = g_ranks->rank() == last
                          ? Status(StatusCode::kNotFound, "no folder " + std::string(3000, 'x'))
                          : Status();
  const Status all = AgreeOn(g_ranks, mine);
  EXPECT_EQ(all.code(), StatusCode::kNotFound);
  EXPECT_THAT(all.message(), HasSubstr("rank " + std::to_string(last) + " of "));
  EXPECT_THAT(all.message(), HasSubstr("no folder xxx"));
  // Of several the first.
  const Status each =
      AgreeOn(g_ranks, Status(StatusCode::kIo, "mine is " + std::to_string(g_ranks->rank())));
  EXPECT_THAT(each.message(), HasSubstr("rank 0 of "));
  EXPECT_THAT(each.message(), HasSubstr("mine is 0"));
}

TEST(MpiCollectiveTest, OtherSettingsAreRefused) {
  EXPECT_TRUE(AgreeOnSame(g_ranks, "alike").ok());
  const Status status = AgreeOnSame(g_ranks, g_ranks->rank() == 1 ? "other" : "alike");
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("rank 1 was started with another model or other flags"));
}

TEST(MpiCollectiveTest, RanksOfThisHostDivideItsCores) {
  const auto share = ShareHost(g_ranks);
  ASSERT_TRUE(share.has_value());
  EXPECT_EQ(share->rank, g_ranks->rank());
  EXPECT_EQ(share->rank_count, g_ranks->rank_count());
  EXPECT_GE(share->threads, 1u);
  const auto alone = ShareHost(nullptr);
  ASSERT_TRUE(alone.has_value());
  EXPECT_EQ(alone->rank_count, 1u);
  EXPECT_LE(share->threads * share->rank_count, std::max(alone->threads, share->rank_count));
}

TEST(MpiCollectiveTest, ARankThatStaysAwayIsNotWaitedForWithoutEnd) {
  // Rank 0 stays away until the others have given up; with -np 2 that is one of them.
  g_ranks->SetPatience(std::chrono::milliseconds(200));
  std::vector<float> values(10, 1.0f);
  if (g_ranks->rank() == 1) {
    const Status status = g_ranks->AllReduce(values);
    EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
    EXPECT_THAT(status.message(), HasSubstr("waited 200 ms for the other ranks in an all-reduce"));
  }
  g_ranks->SetPatience({});
}

TEST(LaunchedRanksTest, TheLauncherSaysWhoWeAre) {
  const auto launched = FindLaunchedRanks();
  ASSERT_TRUE(launched.has_value());
  EXPECT_EQ(launched->rank, g_ranks->rank());
  EXPECT_EQ(launched->count, g_ranks->rank_count());
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto ranks = engram::JoinMpiRanks();
  if (!ranks.has_value()) {
    std::fprintf(stderr, "%s\n", ranks.error().ToString().c_str());
    return 1;
  }
  engram::g_ranks = ranks->get();
  const int failed = RUN_ALL_TESTS();
  // The last test has left a receive open, which MPI would wait for at its end.
  std::fflush(stdout);
  if (failed != 0) (*ranks)->Abort({engram::StatusCode::kInternal, "tests failed"});
  return failed;
}
