// What only etcd can do: several processes, a leader that is deposed, events laid down in pieces.
#include "coordinator/etcd_store.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "coordinator/etcd_state.h"
#include "coordinator/restored_state.h"
#include "proto/state.pb.h"
#include "tests/support/etcd_process.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

class EtcdStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    if (test::EtcdProcess::Program().empty()) {
      GTEST_SKIP() << "etcd is not installed: run deploy/install-deps";
    }
    auto etcd = test::EtcdProcess::Start();
    ASSERT_TRUE(etcd.has_value()) << etcd.error().ToString();
    etcd_ = *std::move(etcd);
    client_ = std::make_unique<EtcdClient>(
        EtcdClient::Options{.endpoints = etcd_->endpoints(), .try_timeout = milliseconds(5000)});
  }

  std::unique_ptr<EtcdStore> Make(milliseconds poll = milliseconds(20),
                                  seconds lease = seconds(10)) {
    EtcdStore::Options options;
    options.address = {etcd_->endpoints(), "test"};
    options.lease = lease;
    options.poll = poll;
    options.try_timeout = milliseconds(5000);
    return std::make_unique<EtcdStore>(options);
  }
  std::unique_ptr<EtcdStore> Open(const std::string& address, milliseconds poll = milliseconds(20),
                                  seconds lease = seconds(10)) {
    auto store = Make(poll, lease);
    EXPECT_TRUE(store->Campaign(address, [] {}).ok());
    return store;
  }
  template <typename Condition>
  static bool Await(Condition condition) {
    const auto until = SteadyClock().Now() + seconds(20);
    while (!condition()) {
      if (SteadyClock().Now() >= until) return false;
      std::this_thread::sleep_for(milliseconds(2));
    }
    return true;
  }
  static uint64_t AwaitTerm(EtcdStore& store) {
    EXPECT_TRUE(Await([&] { return store.leadership().term != 0; }));
    return store.leadership().term;
  }
  static MonotonicTime Soon() { return SteadyClock().Now() + seconds(5); }
  // As if the leader's lease had ended while it was stopped.
  void RemoveLeader() {
    EtcdTxn txn;
    txn.success = {EtcdOp::Delete(names_.leader)};
    ASSERT_TRUE(client_->Txn(txn, Soon()).has_value());
  }
  // As if a leader had been lost after it had committed a large event that puts `key`.
  void MakePending(const std::string& key, const std::string& value) {
    EtcdEvent event = EncodeEvent(names_, {{key, value}});
    EtcdTxn txn;
    txn.success = std::move(event.parts);
    txn.success.push_back(EtcdOp::Put(names_.pending, event.pending));
    ASSERT_TRUE(client_->Txn(txn, Soon()).has_value());
  }
  std::vector<EtcdKeyValue> Keys(const std::string& prefix) {
    return client_->Range(EtcdOp::Range(prefix, EndOfPrefix(prefix)), Soon()).value().keys;
  }

  std::unique_ptr<test::EtcdProcess> etcd_;
  std::unique_ptr<EtcdClient> client_;
  const EtcdKeys names_{"test"};
};

TEST_F(EtcdStoreTest, OneLeadsTheOthersFollowAndOneOfThemTakesOver) {
  auto first = Open("first:1");
  const uint64_t term = AwaitTerm(*first);
  auto second = Open("second:1");
  auto third = Open("third:1");
  ASSERT_EQ(first->Commit(term, {{"a", "1"}}), Status());
  const std::vector<MetadataRecord> expected = {{"a", "1"}};
  for (EtcdStore* store : {second.get(), third.get()}) {
    ASSERT_TRUE(Await([&] {
      const Leadership now = store->leadership();
      return now.followed != nullptr && *now.followed == expected;
    }));
    EXPECT_EQ(store->leadership().term, 0u);
    EXPECT_EQ(store->leadership().leader, "first:1");
  }
  first = nullptr;  // gives the lead up: nobody waits for its lease
  ASSERT_TRUE(Await([&] { return second->leadership().term + third->leadership().term > 0; }));
  EXPECT_EQ(second->leadership().term * third->leadership().term, 0u);  // one of them
  EXPECT_GT(std::max(second->leadership().term, third->leadership().term), term);
}

TEST_F(EtcdStoreTest, ADeposedLeadersWriteIsRefusedByEtcdAndChangesNothing) {
  // It looks at its lease late, and believes until then that it leads.
  auto old = Open("old:1", seconds(30), seconds(60));
  const uint64_t term = AwaitTerm(*old);
  ASSERT_EQ(old->Commit(term, {{"a", "old"}}), Status());
  RemoveLeader();
  auto next = Open("next:1");
  const uint64_t next_term = AwaitTerm(*next);
  ASSERT_GT(next_term, term);
  ASSERT_EQ(old->leadership().term, term);
  const Status refused = old->Commit(term, {{"a", "late"}, {"b", "late"}});
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("next:1"));
  // Nor a large one.
  const Status large = old->Commit(term, {{"a", std::string(3u << 20, 'x')}});
  EXPECT_EQ(large.code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Keys(names_.event).empty());
  const std::vector<MetadataRecord> expected = {{"a", "old"}};
  EXPECT_EQ(next->ReadAll().value(), expected);
  EXPECT_EQ(next->Commit(next_term, {{"a", "next"}}), Status());
}

TEST_F(EtcdStoreTest, ALeaderWhoseKeyIsRemovedSeesThatItsTermIsOver) {
  auto store = Open("here:1");
  const uint64_t term = AwaitTerm(*store);
  RemoveLeader();
  EXPECT_TRUE(Await([&] { return store->leadership().term != term; }));
}

TEST_F(EtcdStoreTest, ATermIsOverHereWhenEtcdIsNotReachedForTheLease) {
  auto store = Open("here:1", milliseconds(20), seconds(2));
  const uint64_t term = AwaitTerm(*store);
  etcd_->member(0).Signal(SIGSTOP);
  const auto stopped = SteadyClock().Now();
  EXPECT_TRUE(Await([&] { return store->leadership().term == 0; }));
  EXPECT_LE(SteadyClock().Now() - stopped, milliseconds(2500));
  EXPECT_EQ(store->Commit(term, {{"a", "1"}}).code(), StatusCode::kFailedPrecondition);
  etcd_->member(0).Signal(SIGCONT);
  EXPECT_TRUE(Await([&] { return store->leadership().term > term; }));
}

// A leader was lost after it had committed a large event, before it had written it everywhere.
TEST_F(EtcdStoreTest, ACommittedEventIsSeenAtOnceAndFinishedByTheNextLeader) {
  const std::vector<MetadataRecord> event = {
      {"a", "new"}, {"big", std::string(2u << 20, 'b')}, {"gone", std::nullopt}};
  {
    auto store = Open("lost:1");
    ASSERT_EQ(store->Commit(AwaitTerm(*store), {{"a", "old"}, {"gone", "x"}, {"kept", "k"}}),
              Status());
  }
  EtcdEvent encoded = EncodeEvent(names_, event);
  for (EtcdOp& part : encoded.parts) {
    EtcdTxn txn;
    txn.success = {std::move(part)};
    ASSERT_TRUE(client_->Txn(txn, Soon()).has_value());
  }
  EtcdTxn commit;
  commit.success = {EtcdOp::Put(names_.pending, encoded.pending)};
  ASSERT_TRUE(client_->Txn(commit, Soon()).has_value());

  const std::vector<MetadataRecord> expected = {
      {"a", "new"}, {"big", std::string(2u << 20, 'b')}, {"kept", "k"}};
  auto store = Open("next:1");
  const uint64_t term = AwaitTerm(*store);
  EXPECT_EQ(store->ReadAll().value(), expected);
  ASSERT_EQ(store->Commit(term, {{"z", "1"}}), Status());
  EXPECT_TRUE(Keys(names_.pending).empty());
  EXPECT_TRUE(Keys(names_.event).empty());
  auto records = store->ReadAll().value();
  ASSERT_EQ(records.size(), 4u);
  records.pop_back();
  EXPECT_EQ(records, expected);
}

TEST_F(EtcdStoreTest, ARestoredSnapshotGivesNoNumberAgain) {
  proto::ClusterRecord cluster;
  cluster.set_next_version(3);
  proto::VersionRecord version;
  version.set_epoch(7);
  auto before = Open("before:1");
  const uint64_t term = AwaitTerm(*before);
  ASSERT_TRUE(before
                  ->Commit(term, {{"cluster", cluster.SerializeAsString()},
                                  {"version/2", version.SerializeAsString()},
                                  {"version/2/owners", "as they are"}})
                  .ok());
  // While somebody leads nothing is changed.
  const Status refused = Make()->SkipGiven("monday", SteadyClock().Now());
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("before:1 leads: end every coordinator"));
  before = nullptr;

  // Three coordinators start with the same name, at the same time and later: it counts once.
  auto first = Make();
  std::thread beside([&] { EXPECT_EQ(Make()->SkipGiven("monday", Soon()), Status()); });
  EXPECT_EQ(first->SkipGiven("monday", Soon()), Status());
  beside.join();
  ASSERT_TRUE(first->Campaign("first:1", [] {}).ok());
  const uint64_t next = AwaitTerm(*first);
  EXPECT_GT(next, term + kRestoredRevisionsSkipped);
  EXPECT_LT(next, term + 2 * kRestoredRevisionsSkipped);
  EXPECT_EQ(Make()->SkipGiven("monday", SteadyClock().Now()), Status());
  const auto check = [&](uint64_t times) {
    const auto records = first->ReadAll();
    ASSERT_TRUE(records.has_value());
    ASSERT_EQ(records->size(), 3u);
    ASSERT_TRUE(cluster.ParseFromString((*records)[0].value.value()));
    EXPECT_EQ(cluster.next_version(), 3 + times * kRestoredVersionsSkipped);
    ASSERT_TRUE(version.ParseFromString((*records)[1].value.value()));
    EXPECT_EQ(version.epoch(), 7 + times * kRestoredEpochsSkipped);
    EXPECT_EQ((*records)[2].value, "as they are");
  };
  check(1);
  // It leads as ever: writes, and sees it when it is deposed.
  EXPECT_EQ(first->Commit(next, {{"a", "1"}}), Status());
  EXPECT_EQ(first->Commit(next, {{"a", std::nullopt}}), Status());
  RemoveLeader();
  EXPECT_TRUE(Await([&] { return first->leadership().term > next; }));
  first = nullptr;

  // Another restore, and in this snapshot a large event is on its way.
  MakePending("cluster", cluster.SerializeAsString());
  first = Make();
  EXPECT_EQ(first->SkipGiven("tuesday", Soon()), Status());
  EXPECT_TRUE(Keys(names_.event).empty());
  EXPECT_TRUE(Keys(names_.pending).empty());
  check(2);
  ASSERT_TRUE(first->Campaign("first:1", [] {}).ok());
  EXPECT_GT(AwaitTerm(*first), next + kRestoredRevisionsSkipped);
}

TEST_F(EtcdStoreTest, PartsOfAnEventThatWasNeverCommittedAreClearedAway) {
  EtcdTxn txn;
  txn.success = {EtcdOp::Put(names_.event + "0000", "left over")};
  ASSERT_TRUE(client_->Txn(txn, Soon()).has_value());
  auto store = Open("here:1");
  const uint64_t term = AwaitTerm(*store);
  EXPECT_TRUE(store->ReadAll().value().empty());
  ASSERT_EQ(store->Commit(term, {{"a", "1"}}), Status());
  EXPECT_TRUE(Keys(names_.event).empty());
}

TEST_F(EtcdStoreTest, AForeignWriterUnderThePrefixIsNoticed) {
  auto store = Open("here:1");
  const uint64_t term = AwaitTerm(*store);
  ASSERT_EQ(store->Commit(term, {{"a", "1"}}), Status());
  EtcdTxn txn;
  txn.success = {EtcdOp::Put(names_.commit, "somebody")};
  ASSERT_TRUE(client_->Txn(txn, Soon()).has_value());
  const Status refused = store->Commit(term, {{"a", "2"}});
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("prefix"));
}

TEST_F(EtcdStoreTest, KeysThatNoRecordMayHaveAreRefused) {
  auto store = Open("here:1");
  const uint64_t term = AwaitTerm(*store);
  EXPECT_EQ(store->Commit(term, {{std::string("a\0b", 3), "1"}}).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(store->Commit(term, {{"", "1"}}).code(), StatusCode::kInvalidArgument);
}

TEST_F(EtcdStoreTest, AnEndpointThatIsDownIsLeftForTheNext) {
  EtcdClient client({.endpoints = {"127.0.0.1:1", etcd_->endpoints()[0]}});
  EXPECT_TRUE(client.Range(EtcdOp::Range("x"), Soon()).has_value());
  // A connection that etcd's restart ended is made again.
  etcd_->member(0).Stop(SIGKILL);
  const Status restarted = etcd_->RestartMember(0);
  ASSERT_TRUE(restarted.ok()) << restarted.ToString();
  EXPECT_TRUE(client.Range(EtcdOp::Range("x"), Soon()).has_value());
}

TEST(EtcdClientTest, NobodyThereIsUnavailableAndNamesEveryEndpoint) {
  EtcdClient client({.endpoints = {"127.0.0.1:1", "127.0.0.1:2"}});
  const auto reply = client.Range(EtcdOp::Range("x"), SteadyClock().Now() + seconds(5));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(reply.error().message(), HasSubstr("127.0.0.1:1: Connection refused"));
  EXPECT_THAT(reply.error().message(), HasSubstr("127.0.0.1:2"));
  EXPECT_THAT(reply.error().message(), HasSubstr("--store"));
}

TEST(EtcdClientTest, AddressesAreReadAndBadOnesShown) {
  const auto address = ParseEtcdAddress("etcd://a:2379,b:2379/one/two/");
  ASSERT_TRUE(address.has_value());
  EXPECT_THAT(address->endpoints, testing::ElementsAre("a:2379", "b:2379"));
  EXPECT_EQ(address->prefix, "one/two");
  EXPECT_EQ(ParseEtcdAddress("etcd://a:1")->prefix, "engram");
  EXPECT_FALSE(address->tls);
  EXPECT_FALSE(ParseEtcdAddress("http://a:1")->tls);
  for (const char* text : {"https://a:1,b:2/p", "https://a:1,https://b:2/p"}) {
    const auto with_tls = ParseEtcdAddress(text);
    ASSERT_TRUE(with_tls.has_value()) << text;
    EXPECT_TRUE(with_tls->tls);
    EXPECT_THAT(with_tls->endpoints, testing::ElementsAre("a:1", "b:2"));
    EXPECT_EQ(with_tls->prefix, "p");
  }
  for (const char* bad : {"a:1", "ftp://a:1", "https://a:1,http://b:1", "etcd://", "etcd:///x",
                          "etcd://a", "etcd://a:1/\x01"}) {
    const auto refused = ParseEtcdAddress(bad);
    ASSERT_FALSE(refused.has_value()) << bad;
    EXPECT_THAT(refused.error().message(), HasSubstr("etcd://host:2379"));
  }
}

}  // namespace
}  // namespace engram
