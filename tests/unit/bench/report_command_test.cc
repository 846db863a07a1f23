// The program as a user runs it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

namespace fs = std::filesystem;

int RunBench(const std::string& arguments) {
  const std::string command = ENGRAM_BIN_DIR "/engram-bench " + arguments;
  return std::system(command.c_str());
}

std::string Contents(const fs::path& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(ReportCommandTest, MakesAPageOrSaysWhichFileIsAtFault) {
  const test::ScratchDir scratch;
  const fs::path& dir = scratch.path();
  const std::string json = (dir / "run.json").string();
  const std::string page = (dir / "page.html").string();
  const std::string quiet = " >" + (dir / "out").string() + " 2>" + (dir / "err").string();
  ASSERT_EQ(RunBench("hash --variant demo --batch 1 64 --repetitions 2 --seconds 0.001 --json " +
                     json + quiet),
            0);
  ASSERT_EQ(RunBench("report " + json + " --out " + page + quiet), 0) << Contents(dir / "err");
  EXPECT_NE(Contents(page).find("How many tokens does a core hash per second?"), std::string::npos);

  std::ofstream(dir / "torn.json") << Contents(json).substr(0, 500);
  EXPECT_NE(RunBench("report " + json + " " + (dir / "torn.json").string() + " --out " + page +
                     "2" + quiet),
            0);
  EXPECT_NE(Contents(dir / "err").find("torn.json: is not JSON"), std::string::npos);
  EXPECT_FALSE(fs::exists(page + "2"));

  EXPECT_NE(RunBench("report " + json + " --out " + json + quiet), 0);
  EXPECT_NE(Contents(dir / "err").find("which the page would replace"), std::string::npos);
  EXPECT_NE(RunBench("report --out " + page + quiet), 0);
  EXPECT_NE(RunBench("report " + json + " --out /no/such/folder/page.html" + quiet), 0);
  EXPECT_NE(Contents(dir / "err").find("/no/such/folder/page.html"), std::string::npos);
}

}  // namespace
}  // namespace engram::bench
