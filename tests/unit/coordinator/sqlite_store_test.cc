// What only a file can do; the rest is in metadata_store_test.cc.
#include "coordinator/sqlite_store.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "coordinator/restored_state.h"
#include "engram/base/check.h"
#include "proto/state.pb.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

TEST(SqliteStoreTest, ASecondCoordinatorOnTheSameFileIsRefused) {
  const test::ScratchDir scratch;
  auto store = SqliteStore::Open(scratch.path() / "state");
  ASSERT_TRUE(store.has_value());
  auto second = SqliteStore::Open(scratch.path() / "state");
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), StatusCode::kFailedPrecondition);
}

TEST(SqliteStoreTest, RubbishAndMissingFoldersAreNamed) {
  const test::ScratchDir scratch;
  std::ofstream(scratch.path() / "rubbish") << std::string(5000, 'x');
  auto rubbish = SqliteStore::Open(scratch.path() / "rubbish");
  ASSERT_FALSE(rubbish.has_value());
  EXPECT_EQ(rubbish.error().code(), StatusCode::kCorrupt);
  auto missing = SqliteStore::Open(scratch.path() / "no" / "folder");
  ASSERT_FALSE(missing.has_value());
  EXPECT_NE(missing.error().message().find("--state"), std::string::npos);
}

TEST(SqliteStoreTest, ARestoredCopyGivesNoNumberAgain) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "state.sqlite";
  proto::ClusterRecord cluster;
  cluster.set_next_version(3);
  cluster.set_current_version(2);
  proto::VersionRecord version;
  version.set_version(2);
  version.set_epoch(7);
  version.set_checkpoint_path("/models/v41");
  {
    auto store = SqliteStore::Open(file);
    ASSERT_TRUE(store.has_value()) << store.error().ToString();
    ASSERT_TRUE((*store)->Campaign("here", [] {}).ok());
    ASSERT_TRUE((*store)
                    ->Commit(1, {{"cluster", cluster.SerializeAsString()},
                                 {"version/2", version.SerializeAsString()},
                                 {"version/2/owners", std::string("as it was")}})
                    .ok());
  }
  auto store = SqliteStore::Open(file);
  ASSERT_TRUE(store.has_value()) << store.error().ToString();
  ASSERT_TRUE((*store)->SkipGiven({}).ok());
  ASSERT_TRUE((*store)->Campaign("here", [] {}).ok());
  EXPECT_EQ((*store)->leadership().term, 1 + kRestoredTermsSkipped + 1);
  const auto records = (*store)->ReadAll();
  ASSERT_TRUE(records.has_value());
  ASSERT_EQ(records->size(), 3u);
  proto::ClusterRecord cluster_after;
  ASSERT_TRUE(cluster_after.ParseFromString(*(*records)[0].value));
  EXPECT_EQ(cluster_after.next_version(), 3 + kRestoredVersionsSkipped);
  EXPECT_EQ(cluster_after.current_version(), 2u);
  proto::VersionRecord version_after;
  ASSERT_TRUE(version_after.ParseFromString(*(*records)[1].value));
  EXPECT_EQ(version_after.epoch(), 7 + kRestoredEpochsSkipped);
  EXPECT_EQ(version_after.version(), 2u);
  EXPECT_EQ(version_after.checkpoint_path(), "/models/v41");
  EXPECT_EQ((*records)[2].value, "as it was");
}

TEST(SqliteStoreTest, TheNameOfARestoreCountsOnceAndGoesWithTheFile) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "state.sqlite";
  const auto copy = scratch.path() / "copy.sqlite";
  // The term after a start with `name`; empty: not restored.
  const auto start = [&](const std::string& name) {
    auto store = SqliteStore::Open(file);
    ENGRAM_CHECK(store.has_value());
    if (!name.empty()) {
      EXPECT_EQ((*store)->SkipGiven(name), Status());
    }
    EXPECT_TRUE((*store)->Campaign("here", [] {}).ok());
    return (*store)->leadership().term;
  };
  EXPECT_EQ(start(""), 1u);
  std::filesystem::copy_file(file, copy);
  EXPECT_EQ(start("monday"), 1 + kRestoredTermsSkipped + 1);
  // A coordinator that restarts with its flags; one without; another restore.
  EXPECT_EQ(start("monday"), 1 + kRestoredTermsSkipped + 2);
  EXPECT_EQ(start(""), 1 + kRestoredTermsSkipped + 3);
  EXPECT_EQ(start("tuesday"), 1 + 2 * kRestoredTermsSkipped + 4);
  // The copy does not know the name yet.
  std::filesystem::copy_file(copy, file, std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(start("monday"), 1 + kRestoredTermsSkipped + 1);
}

TEST(SqliteStoreTest, ARestoredCopyThatIsDamagedIsNamedAndLeftAsItIs) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "state.sqlite";
  auto store = SqliteStore::Open(file);
  ASSERT_TRUE(store.has_value()) << store.error().ToString();
  ASSERT_TRUE((*store)->Campaign("here", [] {}).ok());
  ASSERT_TRUE((*store)->Commit(1, {{"version/2", std::string("\xff\xff")}}).ok());
  const Status damaged = (*store)->SkipGiven({});
  EXPECT_EQ(damaged.code(), StatusCode::kCorrupt);
  EXPECT_NE(damaged.message().find("version/2"), std::string::npos);
  ASSERT_TRUE((*store)->Campaign("here", [] {}).ok());
  EXPECT_EQ((*store)->leadership().term, 2u);
}

}  // namespace
}  // namespace engram
