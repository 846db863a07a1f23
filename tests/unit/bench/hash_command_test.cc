// The program as a user runs it.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

int RunBench(const std::string& arguments) {
  const std::string command = ENGRAM_BIN_DIR "/engram-bench " + arguments + " >/dev/null 2>&1";
  return std::system(command.c_str());
}

TEST(HashCommandTest, WritesARateAndItsBoundsForEachVariant) {
  const test::ScratchDir scratch;
  const std::filesystem::path file = scratch.path() / "hash.json";
  ASSERT_EQ(RunBench("hash --batch 1 64 --repetitions 2 --seconds 0.001 --json " + file.string()),
            0);
  std::ifstream in(file);
  const auto json = nlohmann::json::parse(in);
  EXPECT_EQ(json.at("benchmark"), "hash");
  EXPECT_EQ(json.at("v41").at("row_ids_per_token"), 48);
  EXPECT_EQ(json.at("demo").at("row_ids_per_token"), 32);
  for (const char* variant : {"v41", "demo"}) {
    EXPECT_GT(json.at(variant).at("tokens_s_per_core"), 0);
    EXPECT_EQ(json.at(variant).at("batches").size(), 2u);
    EXPECT_EQ(json.at(variant).at("batches").at(1).at("tokens"), 64);
    EXPECT_GT(json.at(variant).at("bound_write_tokens_s").at("median"), 0);
  }
}

TEST(HashCommandTest, WrongArgumentsAreRefused) {
  EXPECT_NE(RunBench(""), 0);
  EXPECT_NE(RunBench("hash --variant v42"), 0);
  EXPECT_NE(RunBench("hash --batch 0"), 0);
  EXPECT_NE(RunBench("hash --variant v41 --repetitions 1 --seconds 0.001 --json /no/such/folder/x"),
            0);
}

}  // namespace
}  // namespace engram::bench
