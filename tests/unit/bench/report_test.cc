#include "bench/report.h"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

TEST(ReportTest, RecordsMachineSeedSettingsAndResultsInOneObject) {
  Report report("read", 7);
  report.AddSetting("rows", 48);
  report.AddResult("ratio", 0.9);
  const auto& json = report.contents();
  EXPECT_EQ(json.at("benchmark"), "read");
  EXPECT_EQ(json.at("seed"), 7);
  EXPECT_EQ(json.at("settings").at("rows"), 48);
  EXPECT_EQ(json.at("ratio"), 0.9);
  for (const char* key : {"hostname", "kernel", "cpu_model", "cpus", "memory_bytes",
                          "load_average_1m", "ucx_version", "tcp_congestion_control", "git_commit",
                          "build_type", "compiler", "sanitizer", "time_utc"}) {
    EXPECT_TRUE(json.at("environment").contains(key)) << key;
  }
  EXPECT_NE(json.at("environment").at("git_commit"), "");
  EXPECT_GT(json.at("environment").at("memory_bytes"), 0);
}

TEST(ReportTest, WritesTheWholeFileOrSaysWhyNot) {
  const test::ScratchDir scratch;
  const std::filesystem::path file = scratch.path() / "report.json";
  Report report("hash", 1);
  ASSERT_TRUE(report.Write(file).ok());
  std::ifstream in(file);
  EXPECT_EQ(nlohmann::json::parse(in), report.contents());

  const Status status = report.Write("/no/such/folder/report.json");
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_NE(status.message().find("/no/such/folder/report.json"), std::string::npos);
  EXPECT_TRUE(report.Write("").ok());
}

}  // namespace
}  // namespace engram::bench
