#include "bench/step_profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace engram::bench {
namespace {

using std::chrono::microseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string With(const std::string& key, const std::string& value) {
  nlohmann::json profile = {{"name", "n"},
                            {"source", "s"},
                            {"layers", 4},
                            {"engram_layers", {1, 3}},
                            {"layer_us", {{"1", 100}, {"11", 200}, {"100", 1000}}}};
  if (!key.empty()) profile[key] = nlohmann::json::parse(value);
  return profile.dump();
}

TEST(StepProfileTest, LayerTimesLieOnStraightLines) {
  const auto profile = StepProfile::Parse(With("between_steps_us", "50"), "p");
  ASSERT_TRUE(profile.has_value()) << profile.error().ToString();
  EXPECT_EQ(profile->layers(), 4);
  EXPECT_THAT(profile->engram_layers(), ElementsAre(1, 3));
  EXPECT_EQ(profile->between_steps(), microseconds(50));
  EXPECT_EQ(profile->LayerTime(1), microseconds(100));
  EXPECT_EQ(profile->LayerTime(6), microseconds(150));
  EXPECT_EQ(profile->LayerTime(11), microseconds(200));
  EXPECT_EQ(profile->LayerTime(100), microseconds(1000));
  EXPECT_EQ(profile->LayerTime(200), microseconds(2000));  // in proportion beyond
}

TEST(StepProfileTest, WhatIsNoProfileIsRefusedByField) {
  const auto fault = [](const std::string& key, const std::string& value) {
    const auto profile = StepProfile::Parse(With(key, value), "my.json");
    return profile.has_value() ? "accepted" : profile.error().message();
  };
  EXPECT_THAT(fault("source", "1"), HasSubstr("my.json: name and source"));
  EXPECT_THAT(fault("layers", "0"), HasSubstr("layers is a number"));
  EXPECT_THAT(fault("layers", "-1"), HasSubstr("layers is a number"));
  EXPECT_THAT(fault("engram_layers", "[]"), HasSubstr("engram_layers"));
  EXPECT_THAT(fault("engram_layers", "[3, 1]"), HasSubstr("ascending"));
  EXPECT_THAT(fault("engram_layers", "[4]"), HasSubstr("below layers"));
  EXPECT_THAT(fault("layer_us", "{}"), HasSubstr("layer_us"));
  EXPECT_THAT(fault("layer_us", R"({"x": 1})"), HasSubstr("layer_us"));
  EXPECT_THAT(fault("layer_us", R"({"0": 1})"), HasSubstr("layer_us"));
  EXPECT_THAT(fault("layer_us", R"({"1": -1})"), HasSubstr("layer_us"));
  EXPECT_THAT(fault("layer_us", R"({"1": 1e12})"), HasSubstr("layer_us"));
  EXPECT_THAT(fault("between_steps_us", "\"1\""), HasSubstr("between_steps_us"));
}

TEST(StepProfileTest, ShippedOnesAreFoundByName) {
  EXPECT_GE(ShippedProfiles().size(), 3u);
  for (const auto& [name, json] : ShippedProfiles()) {
    const auto profile = StepProfile::Find(std::string(name));
    ASSERT_TRUE(profile.has_value()) << profile.error().ToString();
    EXPECT_FALSE(profile->source().empty()) << name;
    EXPECT_EQ(profile->engram_layers().size(), 2u) << name;
  }
  EXPECT_THAT(StepProfile::Find("v40").error().message(), HasSubstr("v41-like"));
}

}  // namespace
}  // namespace engram::bench
