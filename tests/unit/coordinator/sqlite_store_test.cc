// What only a file can do; the rest is in metadata_store_test.cc.
#include "coordinator/sqlite_store.h"

#include <fstream>

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace engram
