#include "coordinator/etcd_messages.h"

#include <random>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "coordinator/etcd_records.h"

namespace engram {
namespace {

using testing::HasSubstr;

// RFC 4648, section 10.
TEST(EtcdMessagesTest, Base64IsTheStandards) {
  EXPECT_EQ(ToBase64(""), "");
  EXPECT_EQ(ToBase64("f"), "Zg==");
  EXPECT_EQ(ToBase64("fo"), "Zm8=");
  EXPECT_EQ(ToBase64("foo"), "Zm9v");
  EXPECT_EQ(ToBase64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(FromBase64("Zm9vYg=="), "foob");
  EXPECT_EQ(FromBase64("Zm9vYmE="), "fooba");
  for (const char* bad : {"Z", "Zg=", "Zg", "Zm9v!mFy", "Z===", "====", "Zg==Zg==", "Zm 9"}) {
    EXPECT_FALSE(FromBase64(bad).has_value()) << bad;
  }
}

TEST(EtcdMessagesTest, AnyBytesComeBackFromBase64) {
  std::mt19937_64 random(7);
  for (int size = 0; size < 200; ++size) {
    std::string bytes(static_cast<size_t>(size), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    EXPECT_EQ(FromBase64(ToBase64(bytes)), bytes);
  }
}

TEST(EtcdMessagesTest, ATransactionsReplyIsRead) {
  const auto json = ParseEtcdJson(
      R"({"header":{"revision":"12"},"succeeded":true,"responses":[{"response_put":{}},)"
      R"({"response_range":{"kvs":[{"key":"Zg==","create_revision":"3","mod_revision":"4",)"
      R"("value":"Zm9v"}],"more":true,"count":"1"}},{"response_range":{}}]})");
  ASSERT_TRUE(json.has_value());
  const auto reply = ParseTxnReply(*json);
  ASSERT_TRUE(reply.has_value()) << reply.error().ToString();
  EXPECT_TRUE(reply->succeeded);
  EXPECT_EQ(reply->revision, 12u);
  ASSERT_EQ(reply->ranges.size(), 2u);
  const std::vector<EtcdKeyValue> expected = {{"f", "foo", 3, 4}};
  EXPECT_EQ(reply->ranges[0].keys, expected);
  EXPECT_TRUE(reply->ranges[0].more);
  EXPECT_TRUE(reply->ranges[1].keys.empty());
}

TEST(EtcdMessagesTest, RepliesThatAreNoneAreMalformed) {
  for (const char* text : {"", "[]", "7", "{", "not json"}) {
    EXPECT_EQ(ParseEtcdJson(text).error().code(), StatusCode::kMalformed) << text;
  }
  for (const char* text :
       {"{}", R"({"header":7})", R"({"header":{"revision":"x"}})",
        R"({"header":{"revision":"-1"}})", R"({"header":{"revision":"1"},"succeeded":"yes"})",
        R"({"header":{"revision":"1"},"responses":7})",
        R"({"header":{"revision":"1"},"responses":[{"response_range":7}]})",
        R"({"header":{"revision":"1"},"responses":[{"response_range":{"kvs":7}}]})",
        R"({"header":{"revision":"1"},"responses":[{"response_range":{"kvs":[7]}}]})",
        R"({"header":{"revision":"1"},"responses":[{"response_range":{"kvs":[{"key":"!"}]}}]})",
        R"({"header":{"revision":"1"},"responses":[{"response_range":{"kvs":[{"key":7}]}}]})"}) {
    EXPECT_EQ(ParseTxnReply(*ParseEtcdJson(text)).error().code(), StatusCode::kMalformed) << text;
  }
  EXPECT_FALSE(ParseLeaseReply(*ParseEtcdJson(R"({"TTL":"3"})")).has_value());
  EXPECT_FALSE(ParseLeaseReply(*ParseEtcdJson(R"({"result":7})")).has_value());
  EXPECT_EQ(ParseLeaseReply(*ParseEtcdJson(R"({"result":{"ID":"9"}})"))->ttl_s, 0);
}

TEST(EtcdMessagesTest, FailuresSayWhatToDo) {
  const Status no_leader =
      EtcdFailure(503, R"({"error":"etcdserver: no leader","code":14,"message":"x"})");
  EXPECT_EQ(no_leader.code(), StatusCode::kUnavailable);
  EXPECT_THAT(no_leader.message(), HasSubstr("no leader"));
  const Status full =
      EtcdFailure(429, R"({"error":"etcdserver: mvcc: database space exceeded","code":8})");
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("defrag"));
  EXPECT_EQ(EtcdFailure(404, "Not Found\n").code(), StatusCode::kIo);
  EXPECT_LT(EtcdFailure(500, std::string(10'000, 'x')).message().size(), 1000u);
}

TEST(EtcdRecordsTest, APartWithoutTheOneBeforeItIsCorrupt) {
  const EtcdKeys names("p");
  const std::string part1 = names.records + "a" + std::string("\0", 1) + "0001";
  EXPECT_EQ(RecordsOf(names, {{part1, "x", 1, 1}}).error().code(), StatusCode::kCorrupt);
  EXPECT_EQ(RecordsOf(names, {{names.records + "b", "x", 1, 1}, {part1, "x", 1, 1}}).error().code(),
            StatusCode::kCorrupt);
  EXPECT_EQ(RecordsOf(names, {{"q/records/a", "x", 1, 1}}).error().code(), StatusCode::kCorrupt);
  const auto whole = RecordsOf(names, {{names.records + "a", "x", 1, 1}, {part1, "y", 1, 1}});
  ASSERT_TRUE(whole.has_value());
  EXPECT_EQ(whole->at(0).value, "xy");
}

TEST(EtcdRecordsTest, AnEventWithADamagedOrMissingPartIsCorrupt) {
  const EtcdKeys names("p");
  const std::vector<MetadataRecord> records = {{"a", std::string(1'200'000, 'a')},
                                               {"b", std::nullopt}};
  const EtcdEvent event = EncodeEvent(names, records);
  ASSERT_EQ(event.parts.size(), 3u);
  std::vector<EtcdKeyValue> parts;
  for (const EtcdOp& part : event.parts) parts.push_back({part.key, part.value, 1, 1});
  EXPECT_EQ(EventOf(names, event.pending, parts).value(), records);
  auto longer = parts;
  longer.push_back({names.event + "0003", "left over", 1, 1});
  EXPECT_EQ(EventOf(names, event.pending, longer).value(), records);
  auto damaged = parts;
  damaged[1].value[17] ^= 1;
  EXPECT_EQ(EventOf(names, event.pending, damaged).error().code(), StatusCode::kCorrupt);
  parts.pop_back();
  EXPECT_EQ(EventOf(names, event.pending, parts).error().code(), StatusCode::kCorrupt);
  EXPECT_EQ(EventOf(names, "\xff\xff", parts).error().code(), StatusCode::kCorrupt);
}

TEST(EtcdRecordsTest, GroupsFitATransaction) {
  const EtcdKeys names("p");
  std::vector<MetadataRecord> records;
  for (int i = 0; i < 500; ++i) records.push_back({std::to_string(i), std::string(20'000, 'x')});
  const auto groups = RecordOps(names, records);
  ASSERT_TRUE(groups.has_value());
  size_t ops = 0;
  for (const auto& group : *groups) {
    size_t bytes = 0;
    for (const EtcdOp& op : group) bytes += op.key.size() + op.value.size();
    EXPECT_LE(group.size(), kEtcdTxnOpsMax);
    EXPECT_LE(bytes, kEtcdTxnBytesMax);
    ops += group.size();
  }
  EXPECT_EQ(ops, 1000u);
}

}  // namespace
}  // namespace engram
