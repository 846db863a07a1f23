#include "shard_server/node_options.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using testing::HasSubstr;

ParsedOptions Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "engram-shard-server");
  return ParseNodeOptions(static_cast<int>(arguments.size()), arguments.data());
}

NodeOptions Good() {
  NodeOptions options;
  options.id = "m0";
  options.coordinator = "127.0.0.1:7000";
  options.memory_bytes = 1 << 30;
  return options;
}

TEST(NodeOptionsTest, MemoryTakesUnits) {
  const auto parsed = Parse({"--id", "m0", "--coordinator", "head:7000", "--memory", "64GiB"});
  ASSERT_FALSE(parsed.exit_code.has_value());
  EXPECT_EQ(parsed.options.memory_bytes, 64ull << 30);
  EXPECT_EQ(Parse({"--id", "m0", "--coordinator", "h:1", "--memory", "2GB"}).options.memory_bytes,
            2000000000u);
}

TEST(NodeOptionsTest, ScrubIsOnUnlessTurnedOffAndItsRateTakesUnits) {
  const auto rate = [](std::vector<const char*> more) {
    std::vector<const char*> all = {"--id", "m0", "--coordinator", "h:1", "--memory", "2GB"};
    all.insert(all.end(), more.begin(), more.end());
    return Parse(all).options.scrub_bytes_per_s;
  };
  EXPECT_EQ(rate({}), 64u << 20);
  EXPECT_EQ(rate({"--scrub-rate", "1MiB"}), 1u << 20);
  EXPECT_EQ(rate({"--scrub-rate", "0"}), 0u);
}

TEST(NodeOptionsTest, MissingMemoryIsAComplaintAndHelpIsNot) {
  EXPECT_NE(Parse({"--id", "m0", "--coordinator", "head:7000"}).exit_code.value_or(0), 0);
  EXPECT_EQ(Parse({"--help"}).exit_code, 0);
}

TEST(NodeOptionsTest, MemoryWithoutAUnitThatIsTooSmallIsRefused) {
  NodeOptions options = Good();
  options.memory_bytes = 64;
  EXPECT_THAT(CheckNodeOptions(options).message(), HasSubstr("such as 64GiB"));
}

TEST(NodeOptionsTest, AddressThatIsNoneNamesItsFlag) {
  NodeOptions options = Good();
  EXPECT_TRUE(CheckNodeOptions(options).ok());
  options.coordinator = "head";
  EXPECT_THAT(CheckNodeOptions(options).message(), HasSubstr("--coordinator"));
}

TEST(NodeOptionsTest, TestHooksNeedLoopbackForBothAddresses) {
  NodeOptions options = Good();
  options.enable_test_hooks = true;
  EXPECT_TRUE(CheckNodeOptions(options).ok());
  options.listen = "0.0.0.0:7100";
  EXPECT_EQ(CheckNodeOptions(options).code(), StatusCode::kInvalidArgument);
  options.listen = "127.0.0.1:7100";
  options.http = "10.0.0.1:7101";
  EXPECT_EQ(CheckNodeOptions(options).code(), StatusCode::kInvalidArgument);
}

TEST(NodeOptionsTest, AdvertisedHostIsTheListenHostUnlessThatIsAnyOrOneIsGiven) {
  NodeOptions options = Good();
  EXPECT_EQ(AdvertisedHost(options, "machine"), "127.0.0.1");
  options.listen = "0.0.0.0:7100";
  EXPECT_EQ(AdvertisedHost(options, "machine"), "machine");
  options.advertise = "m0.example";
  EXPECT_EQ(AdvertisedHost(options, "machine"), "m0.example");
}

}  // namespace
}  // namespace engram
