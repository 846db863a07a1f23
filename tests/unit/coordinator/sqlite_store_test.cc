#include "coordinator/sqlite_store.h"

#include <chrono>
#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/child_process.h"

namespace engram {
namespace {

TEST(SqliteStoreTest, RecordsComeBackInOrderAfterReopening) {
  const test::ScratchDir scratch;
  {
    auto store = SqliteStore::Open(scratch.path() / "state");
    ASSERT_TRUE(store.has_value()) << store.error().ToString();
    const uint64_t term = (*store)->BeginTerm().value();
    EXPECT_EQ(term, 1u);
    EXPECT_TRUE((*store)->Commit(term, {{"b", "2"}, {"a", std::string("\0x", 2)}, {"c", ""}}).ok());
    EXPECT_TRUE((*store)->Commit(term, {{"b", "3"}, {"c", std::nullopt}}).ok());
  }
  auto store = SqliteStore::Open(scratch.path() / "state");
  ASSERT_TRUE(store.has_value()) << store.error().ToString();
  EXPECT_EQ((*store)->BeginTerm().value(), 2u);
  const std::vector<MetadataRecord> expected = {{"a", std::string("\0x", 2)}, {"b", "3"}};
  EXPECT_EQ((*store)->ReadAll().value(), expected);
}

TEST(SqliteStoreTest, AnEarlierTermMayWriteNothing) {
  const test::ScratchDir scratch;
  auto store = SqliteStore::Open(scratch.path() / "state");
  ASSERT_TRUE(store.has_value());
  const uint64_t first = (*store)->BeginTerm().value();
  (void)(*store)->BeginTerm();
  EXPECT_EQ((*store)->Commit(first, {{"a", "1"}}).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE((*store)->ReadAll()->empty());
}

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

// A child commits 1, 2, 3, ... and tells each through a pipe once it is durable; it is killed at an
// arbitrary moment. What is on disk is whole, and nothing that was told is missing.
TEST(SqliteStoreTest, NothingAcknowledgedIsLostToKillNine) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "state";
  uint64_t last_told = 0;
  for (int round = 0; round < 8; ++round) {
    int channel[2];
    ASSERT_EQ(pipe(channel), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto store = SqliteStore::Open(file);
      if (!store.has_value()) _exit(1);
      const uint64_t term = (*store)->BeginTerm().value();
      for (uint64_t i = last_told + 1;; ++i) {
        const std::string number = std::to_string(i);
        if (!(*store)->Commit(term, {{"x", number}, {"y", number}}).ok()) _exit(1);
        if (write(channel[1], &i, sizeof(i)) != sizeof(i)) _exit(1);
      }
    }
    close(channel[1]);
    std::this_thread::sleep_for(std::chrono::milliseconds(40 + 13 * round));
    kill(child, SIGKILL);
    uint64_t told = 0;
    while (read(channel[0], &told, sizeof(told)) == sizeof(told)) last_told = told;
    close(channel[0]);
    waitpid(child, nullptr, 0);

    auto store = SqliteStore::Open(file);
    ASSERT_TRUE(store.has_value()) << store.error().ToString();
    const auto records = (*store)->ReadAll().value();
    if (last_told == 0) continue;
    ASSERT_EQ(records.size(), 2u);
    EXPECT_EQ(*records[0].value, *records[1].value);  // one transaction, whole
    EXPECT_GE(std::stoull(*records[0].value), last_told);
    last_told = std::stoull(*records[0].value);
  }
  EXPECT_GT(last_told, 0u);
}

}  // namespace
}  // namespace engram
