#include "shard_server/slot_arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using test::RecordingRowServer;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(SlotArenaTest, FirstTakeIsOneRegionOfTheBytesAskedForRoundedToPages) {
  RecordingRowServer server;
  SlotArena arena(&server, {1 << 20, 1 << 20});
  const auto pieces = arena.Take(std::vector<uint64_t>{1000, 2000, 3000});
  ASSERT_TRUE(pieces.has_value());
  EXPECT_THAT(server.region_sizes, ElementsAre(8192));
  EXPECT_EQ(arena.region_bytes(), 8192u);
  EXPECT_EQ((*pieces)[1].place.offset, 1024u);
  EXPECT_EQ((*pieces)[1].data, (*pieces)[0].data + 1024);
  EXPECT_EQ((*pieces)[2].place.offset % kPieceAlignBytes, 0u);
}

TEST(SlotArenaTest, OverTheLimitIsRefusedWithTheFiguresAndNothingIsAllocated) {
  RecordingRowServer server;
  SlotArena arena(&server, {10000, 1 << 20});
  const auto pieces = arena.Take(std::vector<uint64_t>{8000, 8000});
  ASSERT_FALSE(pieces.has_value());
  EXPECT_EQ(pieces.error().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(pieces.error().message(), HasSubstr("16.00 KiB more memory is needed"));
  EXPECT_THAT(pieces.error().message(), HasSubstr("--memory) is 9.77 KiB"));
  EXPECT_TRUE(server.region_sizes.empty());
  EXPECT_EQ(arena.free_bytes(), 0u);
}

TEST(SlotArenaTest, RefusalGivesBackWhatFreeMemoryHadCovered) {
  RecordingRowServer server;
  SlotArena arena(&server, {8192, 1 << 20});
  const auto first = arena.Take(std::vector<uint64_t>{4096, 4096});
  ASSERT_TRUE(first.has_value());
  arena.GiveBack((*first)[0]);
  EXPECT_FALSE(arena.Take(std::vector<uint64_t>{2048, 4096}).has_value());
  EXPECT_EQ(arena.free_bytes(), 4096u);
  EXPECT_TRUE(arena.Take(std::vector<uint64_t>{4096}).has_value());
}

TEST(SlotArenaTest, NeighbouringPiecesGivenBackJoin) {
  RecordingRowServer server;
  SlotArena arena(&server, {4096, 4096});
  const auto pieces = arena.Take(std::vector<uint64_t>{1024, 1024, 1024, 1024});
  ASSERT_TRUE(pieces.has_value());
  for (const size_t i : {2u, 0u, 1u}) arena.GiveBack((*pieces)[i]);
  const auto joined = arena.Take(std::vector<uint64_t>{3072});
  ASSERT_TRUE(joined.has_value());
  EXPECT_EQ((*joined)[0].place.offset, 0u);
}

TEST(SlotArenaTest, RegionsAreCutAtTheirBoundAndNoPieceIsSplit) {
  RecordingRowServer server;
  SlotArena arena(&server, {1 << 20, 8192});
  const auto pieces = arena.Take(std::vector<uint64_t>{5000, 5000, 3000});
  ASSERT_TRUE(pieces.has_value());
  EXPECT_THAT(server.region_sizes, ElementsAre(8192, 8192));
  EXPECT_NE((*pieces)[0].place.region, (*pieces)[1].place.region);
}

TEST(SlotArenaTest, SmallGrowthTakesASixtyFourthOfWhatIsHeld) {
  RecordingRowServer server;
  SlotArena arena(&server, {16 << 20, 16 << 20});
  ASSERT_TRUE(arena.Take(std::vector<uint64_t>{4 << 20}).has_value());
  ASSERT_TRUE(arena.Take(std::vector<uint64_t>{100}).has_value());
  EXPECT_THAT(server.region_sizes, ElementsAre(4 << 20, (4 << 20) / 64));
}

TEST(SlotArenaTest, SystemRefusalIsTheErrorAndTheArenaStaysUsable) {
  RecordingRowServer server;
  server.system_bytes = 4096;
  SlotArena arena(&server, {1 << 20, 4096});
  const auto pieces = arena.Take(std::vector<uint64_t>{4096, 4096});
  ASSERT_FALSE(pieces.has_value());
  EXPECT_THAT(pieces.error().message(), HasSubstr("the system has no more"));
  EXPECT_EQ(arena.free_bytes(), 4096u);
  EXPECT_TRUE(arena.Take(std::vector<uint64_t>{4096}).has_value());
}

}  // namespace
}  // namespace engram
