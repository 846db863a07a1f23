// engram-bench hosts, read and prefetch across network namespaces, as a user runs them.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

test::CommandOutput Bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), ENGRAM_BIN_DIR "/engram-bench");
  return test::RunCommand(arguments, std::chrono::seconds(100));
}

class HostsCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
  }
  std::string file() const { return (scratch_.path() / "report.json").string(); }
  json ReadReport() const {
    std::ifstream in(file());
    return json::parse(in);
  }
  test::ScratchDir scratch_;
};

TEST_F(HostsCommandTest, ReadsAndStepsAtEachRoundTripStandInOneReport) {
  const auto ran = Bench({"hosts", "--rate", "5gbit", "--round-trips-us", "0,3000", "--rows",
                          "48,480", "--decode", "1,4", "--bytes", "8MiB", "--seconds", "0.1",
                          "--repetitions", "1", "--json", file()});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  const json report = ReadReport();
  EXPECT_EQ(report.at("settings").at("rate"), "5gbit");
  const json& found = report.at("round_trips");
  ASSERT_EQ(found.size(), 2u);
  for (const json& at : found) {
    ASSERT_EQ(at.at("read").size(), 2u);
    ASSERT_EQ(at.at("prefetch").size(), 2u);
    const double round_trip_us = at.at("round_trip_us");
    for (const json& batch : at.at("read")) {
      // No batch is back before its round trip, of the stack or of the floor.
      EXPECT_GE(batch.at("p50_us"), round_trip_us);
      EXPECT_GE(batch.at("floor_p50_us"), round_trip_us);
    }
    for (const json& batch : at.at("prefetch")) {
      for (const auto& [id, layer] : batch.at("layers").items()) {
        EXPECT_GE(layer.at("p50_us"), round_trip_us) << id;
      }
    }
  }
  // 3 ms do not fit into the 0.3 ms of layer 1, but in a step that others keep from running.
  EXPECT_LT(found.at(1).at("prefetch").at(0).at("layers").at("1").at("hidden_fraction"), 0.5);
  EXPECT_EQ(report.at("plots").size(), 2u);
}

TEST_F(HostsCommandTest, ReplicasAreOnHostsOfTheirOwn) {
  const auto ran = Bench({"read", "--rate", "10gbit", "--replicas", "2", "--rows", "48", "--bytes",
                          "8MiB", "--seconds", "0.05", "--repetitions", "1", "--json", file()});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  const json report = ReadReport();
  EXPECT_EQ(report.at("settings").at("rate"), "10gbit");
  EXPECT_EQ(report.at("settings").at("round_trip_us"), 0);
  EXPECT_GT(report.at("ratio"), 0);
}

TEST_F(HostsCommandTest, WhatIsNoNetworkIsSaid) {
  const auto shared = Bench({"read", "--rate", "10gbit", "--transport", "shm"});
  EXPECT_EQ(shared.exit_status, 1);
  EXPECT_THAT(shared.err, HasSubstr("use --transport tcp"));
  const auto script = Bench({"prefetch", "--rate", "1gbit; reboot"});
  EXPECT_EQ(script.exit_status, 1);
  EXPECT_THAT(script.err, HasSubstr("a rate is like 10gbit"));
  const auto no_rate = Bench({"read", "--rate", "fast", "--bytes", "8MiB"});
  EXPECT_EQ(no_rate.exit_status, 1);
  EXPECT_THAT(no_rate.err, HasSubstr("setting up the hosts' network"));
  const auto cluster = Bench({"read", "--rate", "1gbit", "--coordinator", "127.0.0.1:1"});
  EXPECT_NE(cluster.exit_status, 0);
}

}  // namespace
}  // namespace engram::bench
