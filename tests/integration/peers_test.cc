// engram-bench peers with real servers, for a moment: what it writes, and that nothing is left.
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/support/child_process.h"

namespace engram::test {
namespace {

using namespace std::chrono_literals;

constexpr char kBench[] = ENGRAM_BIN_DIR "/engram-bench";

std::vector<std::string> Arguments(const std::string& peer, const std::string& seconds,
                                   const std::filesystem::path& report) {
  return {kBench,   "peers",         "--peers", peer,        "--rows", "48,1536",       "--bytes",
          "4MiB",   "--repetitions", "2",       "--seconds", seconds,  "--try-seconds", "0.01",
          "--json", report.string()};
}

// What a child of this process left behind becomes a child of this process.
class PeersTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0); }

  // Whether no child is left, waited for at most so long.
  static bool NoneLeft(std::chrono::milliseconds patience) {
    const auto until = std::chrono::steady_clock::now() + patience;
    while (true) {
      const pid_t reaped = waitpid(-1, nullptr, WNOHANG);
      if (reaped < 0) return errno == ECHILD;
      if (reaped == 0) {
        if (std::chrono::steady_clock::now() >= until) return false;
        std::this_thread::sleep_for(5ms);
      }
    }
  }
};

TEST_P(PeersTest, ReportsBothSidesAndTheirRatio) {
  const ScratchDir scratch;
  const auto report = scratch.path() / "report.json";
  const CommandOutput output = RunCommand(Arguments(GetParam(), "0.05", report), 120s);
  if (output.exit_status != 0 && output.err.find("install-deps --bench") != std::string::npos) {
    GTEST_SKIP() << output.err;
  }
  ASSERT_EQ(output.exit_status, 0) << output.err;
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a server was left behind";

  const auto json = nlohmann::json::parse(ReadFile(report));
  EXPECT_EQ(json.at("benchmark"), "peers");
  EXPECT_EQ(json.at("settings").at("row_bytes"), 264);
  ASSERT_EQ(json.at("batches").size(), 2u);
  for (const auto& batch : json.at("batches")) {
    const auto& ours = batch.at("ours");
    const auto& theirs = batch.at("peers").at(GetParam());
    for (const auto* side : {&ours, &theirs}) {
      EXPECT_GT(side->at("rows_s"), 0);
      EXPECT_GT(side->at("p50_us"), 0);
      EXPECT_NE(side->at("setting"), "");
    }
    EXPECT_GT(theirs.at("ratio_rows"), 0);
    EXPECT_GT(theirs.at("ratio_p50"), 0);
    EXPECT_NE(theirs.at("version"), "");
    EXPECT_FALSE(theirs.at("tried").empty());
    // Contents were compared in every setting that was tried.
    EXPECT_EQ(theirs.at("rows_checked"),
              batch.at("rows").get<size_t>() * theirs.at("tried").size());
  }
  EXPECT_EQ(json.at("batches").at(0).at("rows"), 48);
  EXPECT_EQ(json.at("ours"), json.at("batches").at(1).at("ours"));
  EXPECT_EQ(json.at("peers"), json.at("batches").at(1).at("peers"));
}

TEST_P(PeersTest, NoServerOutlivesABenchmarkThatIsKilled) {
  const ScratchDir scratch;
  auto bench = ChildProcess::Start(Arguments(GetParam(), "600", scratch.path() / "report.json"),
                                   scratch.path() / "log");
  ASSERT_TRUE(bench.has_value()) << bench.error().ToString();
  // Said when every server is loaded.
  const auto until = std::chrono::steady_clock::now() + 60s;
  while (ReadFile(scratch.path() / "log").find("measuring") == std::string::npos) {
    if (!bench->running()) {
      const std::string log = ReadFile(scratch.path() / "log");
      if (log.find("install-deps --bench") != std::string::npos) GTEST_SKIP() << log;
      FAIL() << log;
    }
    ASSERT_LT(std::chrono::steady_clock::now(), until) << ReadFile(scratch.path() / "log");
    std::this_thread::sleep_for(5ms);
  }
  bench->Stop(SIGKILL);
  EXPECT_TRUE(NoneLeft(20s));
}

INSTANTIATE_TEST_SUITE_P(Each, PeersTest, testing::Values("redis", "memcached", "grpc"),
                         [](const auto& peer) { return std::string(peer.param); });

TEST(PeersCommandTest, WrongArgumentsAreRefused) {
  EXPECT_NE(RunCommand({kBench, "peers", "--rows", "50"}, 60s).exit_status, 0);
  EXPECT_NE(RunCommand({kBench, "peers", "--peers", "etcd"}, 60s).exit_status, 0);
}

}  // namespace
}  // namespace engram::test
