#include "tools/status_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/http/status_json.h"

namespace engram {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

proto::GetStatusReply OneOfEach() {
  proto::GetStatusReply status;
  status.set_term(4);
  auto* node = status.add_nodes();
  node->set_id("m0");
  node->set_zone("z");
  node->set_up(true);
  node->set_capacity_bytes(1ull << 30);
  node->set_assigned_bytes(123456789012ull);
  node->set_assigned_slots(10);
  node->set_ready_slots(7);
  node->set_last_heartbeat_age_ms(1250);
  auto* down = status.add_nodes();
  down->set_id("m1");
  down->set_error("the disk is gone");
  auto* version = status.add_versions();
  version->set_version(3);
  version->set_current(true);
  version->set_slot_count(20);
  version->set_ready_slots(7);
  version->set_total_bytes(2ull << 30);
  version->set_bytes_loaded(1ull << 30);
  version->set_damaged_slot_reports(2);
  version->mutable_spec()->mutable_hash()->add_layer_ids(14);
  return status;
}

TEST(StatusTextTest, JsonNumbersAreNumbers) {
  const auto document = StatusJson(OneOfEach());
  EXPECT_EQ(document["term"], 4);
  EXPECT_TRUE(document["nodes"][0]["assigned_bytes"].is_number_unsigned());
  EXPECT_EQ(document["nodes"][0]["assigned_bytes"], 123456789012ull);
  EXPECT_EQ(document["nodes"][1]["error"], "the disk is gone");
  EXPECT_EQ(document["versions"][0]["ready_slots"], 7);
  EXPECT_EQ(document["versions"][0]["slot_count"], 20);
  EXPECT_EQ(document["versions"][0]["damaged_slot_reports"], 2);
  EXPECT_EQ(document["versions"][0]["spec"]["layer_ids"][0], 14);
}

TEST(StatusTextTest, TextShowsStateAndProgress) {
  const std::string text = StatusText(OneOfEach());
  EXPECT_THAT(text, HasSubstr("loading, current"));
  EXPECT_THAT(text, HasSubstr("7/20"));
  EXPECT_THAT(text, HasSubstr("1.00 GiB of 2.00 GiB"));
  EXPECT_THAT(text, HasSubstr("DOWN"));
  EXPECT_THAT(text, HasSubstr("the disk is gone"));
  EXPECT_THAT(text, HasSubstr("1.2 s"));
}

TEST(StatusTextTest, EmptyClusterTellsWhatToDo) {
  const std::string text = StatusText({});
  EXPECT_THAT(text, HasSubstr("engramctl create-version"));
  EXPECT_THAT(text, HasSubstr("engram-shard-server"));
}

TEST(StatusTextTest, ReadyVersionIsReady) {
  proto::GetStatusReply status = OneOfEach();
  status.mutable_versions(0)->set_ready_slots(20);
  EXPECT_THAT(StatusText(status), HasSubstr("ready, current"));
  EXPECT_THAT(StatusText(status), Not(HasSubstr("loading")));
}

}  // namespace
}  // namespace engram
