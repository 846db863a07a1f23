#include "client/shard_directory.h"

#include <condition_variable>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/token_book.h"
#include "tests/unit/client/scripted_coordinator.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using test::ScriptedCoordinator;

ShardDirectoryOptions OptionsFor(const std::vector<std::string>& coordinators) {
  ShardDirectoryOptions options;
  options.coordinators = coordinators;
  options.ready_timeout = milliseconds(60000);
  options.reconnect_delay_min = milliseconds(5);
  options.reconnect_delay_max = milliseconds(20);
  return options;
}

// Waits until `done()`, driven by the directory's change notices and a short sleep.
template <typename Done>
bool Eventually(Done done) {
  for (int i = 0; i < 12000; ++i) {
    if (done()) return true;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return false;
}

TEST(ShardDirectoryTest, GivesTheCurrentVersionItsLayoutAndItsMap) {
  ScriptedCoordinator coordinator;
  const auto directory = ShardDirectory::Connect(OptionsFor({coordinator.address()}));
  ASSERT_TRUE(directory.has_value()) << directory.error().ToString();
  EXPECT_EQ((*directory)->version(), TableVersion(7));
  EXPECT_EQ(*(*directory)->Current(), coordinator.map());
  EXPECT_EQ((*directory)->layout()->spec(), coordinator.layout()->spec());
  EXPECT_EQ((*directory)->identity(), test::SmallIdentity());
  EXPECT_TRUE((*directory)->ready());
  EXPECT_TRUE((*directory)->Health().ok());
}

TEST(ShardDirectoryTest, NewMapIsToldToSubscribers) {
  ScriptedCoordinator coordinator;
  const auto directory = *ShardDirectory::Connect(OptionsFor({coordinator.address()}));
  std::atomic<int> changes{0};
  const uint64_t subscription = directory->Subscribe([&] { changes.fetch_add(1); });
  const auto before = directory->Current();
  coordinator.SetEpoch(2);
  ASSERT_TRUE(Eventually([&] { return changes.load() > 0; }));
  EXPECT_EQ(directory->Current()->epoch, Epoch(2));
  EXPECT_EQ(before->epoch, Epoch(1)) << "a snapshot never changes";
  directory->Unsubscribe(subscription);
  coordinator.SetEpoch(3);
  ASSERT_TRUE(Eventually([&] { return directory->Current()->epoch == Epoch(3); }));
  EXPECT_EQ(changes.load(), 1);
}

// Readers look at the layout without a lock: ThreadSanitizer sees it where a new map sets it again.
TEST(ShardDirectoryTest, WhatAVersionIsStaysPutWhileMapsChange) {
  ScriptedCoordinator coordinator;
  const auto directory = *ShardDirectory::Connect(OptionsFor({coordinator.address()}));
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    const TableLayout* const first = directory->layout().get();
    while (!stop.load(std::memory_order_relaxed)) {
      EXPECT_EQ(directory->layout().get(), first);
      EXPECT_EQ(directory->identity(), test::SmallIdentity());
      EXPECT_EQ(directory->version(), TableVersion(7));
    }
  });
  for (uint64_t epoch = 2; epoch < 10; ++epoch) {
    coordinator.SetEpoch(epoch);
    EXPECT_TRUE(Eventually([&] { return directory->Current()->epoch == Epoch(epoch); }));
  }
  stop = true;
  reader.join();
}

TEST(ShardDirectoryTest, ATokenThatItsNodeKnowsStaysUntilTheNodeKnowsTheNextOnesKey) {
  ScriptedCoordinator coordinator;
  coordinator.SetTokens("old", {});
  ShardDirectoryOptions options = OptionsFor({coordinator.address()});
  options.tokens = std::make_shared<TokenBook>();
  const auto directory = *ShardDirectory::Connect(options);
  const std::string first = coordinator.map().nodes[0].address;
  const auto token = [&](const std::string& address) {
    return options.tokens->Get(TableVersion(7), address);
  };
  EXPECT_EQ(token(first), "old for " + first);
  // Another coordinator leads, and a node has joined.
  ShardMap map = coordinator.map();
  map.epoch = Epoch(2);
  map.nodes.push_back({"m1", "zone", "127.0.0.1:3", Incarnation(6)});
  coordinator.SetTokens("new", {0, 1});
  coordinator.SetMap(map);
  ASSERT_TRUE(Eventually([&] { return directory->Current()->epoch == Epoch(2); }));
  EXPECT_EQ(token(first), "old for " + first);
  EXPECT_EQ(token("127.0.0.1:3"), "new for 127.0.0.1:3");  // there is no older one
  coordinator.SetTokens("newer", {});
  EXPECT_TRUE(Eventually([&] { return token(first) == "newer for " + first; }));
}

// A reader that has only just come takes what there is: nodes that do not know it say so.
TEST(ShardDirectoryTest, TheFirstTokenIsTakenWhoeverKnowsItsKey) {
  ScriptedCoordinator coordinator;
  coordinator.SetTokens("early", {0});
  ShardDirectoryOptions options = OptionsFor({coordinator.address()});
  options.tokens = std::make_shared<TokenBook>();
  const auto directory = *ShardDirectory::Connect(options);
  const std::string address = coordinator.map().nodes[0].address;
  EXPECT_EQ(options.tokens->Get(TableVersion(7), address), "early for " + address);
}

TEST(ShardDirectoryTest, AnotherModelIsRefused) {
  ScriptedCoordinator coordinator;
  ModelIdentity other = test::SmallIdentity();
  other[0] ^= 1;
  ShardDirectoryOptions options = OptionsFor({coordinator.address()});
  options.identity = &other;
  const auto directory = ShardDirectory::Connect(options);
  ASSERT_FALSE(directory.has_value());
  EXPECT_EQ(directory.error().code(), StatusCode::kWrongModel);
  EXPECT_THAT(directory.error().message(), ::testing::HasSubstr(coordinator.address()));
}

TEST(ShardDirectoryTest, NextCoordinatorIsTriedWhenOneDoesNotAnswer) {
  ScriptedCoordinator coordinator;
  const auto directory =
      ShardDirectory::Connect(OptionsFor({"127.0.0.1:1", coordinator.address()}));
  ASSERT_TRUE(directory.has_value()) << directory.error().ToString();
  EXPECT_EQ((*directory)->Current()->epoch, Epoch(1));
}

TEST(ShardDirectoryTest, LastMapStaysWhileTheCoordinatorIsDownAndANewOneIsTakenAfter) {
  auto coordinator = std::make_unique<ScriptedCoordinator>();
  const std::string address = coordinator->address();
  const auto directory = *ShardDirectory::Connect(OptionsFor({address}));
  coordinator.reset();
  ASSERT_TRUE(Eventually([&] { return !directory->Health().ok(); }));
  EXPECT_THAT(directory->Health().message(), ::testing::HasSubstr(address));
  EXPECT_EQ(directory->Current()->epoch, Epoch(1));
  coordinator = std::make_unique<ScriptedCoordinator>(address);
  coordinator->SetEpoch(9);
  ASSERT_TRUE(Eventually([&] { return directory->Current()->epoch == Epoch(9); }));
  EXPECT_TRUE(Eventually([&] { return directory->Health().ok(); }));
}

TEST(ShardDirectoryTest, VersionThatIsNotReadyIsWaitedForThenNamed) {
  ScriptedCoordinator coordinator;
  coordinator.SetReady(false);
  ShardDirectoryOptions options = OptionsFor({coordinator.address()});
  options.ready_timeout = milliseconds(2000);
  const auto not_ready = ShardDirectory::Connect(options);
  ASSERT_FALSE(not_ready.has_value());
  EXPECT_EQ(not_ready.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(not_ready.error().message(), ::testing::HasSubstr("version 7"));
  options.wait_ready = false;
  EXPECT_TRUE(ShardDirectory::Connect(options).has_value());
  options = OptionsFor({coordinator.address()});
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(50));
    coordinator.SetReady(true);
  });
  EXPECT_TRUE(ShardDirectory::Connect(options).has_value());
  later.join();
}

TEST(ShardDirectoryTest, NobodyThereIsUnavailableWithTheAddress) {
  ShardDirectoryOptions options = OptionsFor({"127.0.0.1:1"});
  options.ready_timeout = milliseconds(2000);
  const auto directory = ShardDirectory::Connect(options);
  ASSERT_FALSE(directory.has_value());
  EXPECT_EQ(directory.error().code(), StatusCode::kUnavailable);
  EXPECT_THAT(directory.error().message(), ::testing::HasSubstr("127.0.0.1:1"));
}

TEST(ShardDirectoryTest, BadAddressesAreRefused) {
  EXPECT_EQ(ShardDirectory::Connect(OptionsFor({})).error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ShardDirectory::Connect(OptionsFor({"nonsense"})).error().code(),
            StatusCode::kInvalidArgument);
}

TEST(ShardDirectoryTest, MapThatLiesIsNotTaken) {
  ScriptedCoordinator coordinator;
  const auto directory = *ShardDirectory::Connect(OptionsFor({coordinator.address()}));
  coordinator.SetMapDamaged(true);
  coordinator.SetEpoch(2);
  ASSERT_TRUE(Eventually([&] { return directory->Health().code() == StatusCode::kMalformed; }));
  EXPECT_EQ(directory->Current()->epoch, Epoch(1));
}

TEST(ShardDirectoryTest, DamagedSlotIsReportedOnce) {
  ScriptedCoordinator coordinator;
  const auto directory = *ShardDirectory::Connect(OptionsFor({coordinator.address()}));
  const ShardMapNode& node = directory->Current()->nodes[0];
  for (int i = 0; i < 5; ++i) directory->ReportSlot(SlotIndex(3), node);
  directory->ReportSlot(SlotIndex(4), node);
  ASSERT_TRUE(Eventually([&] { return coordinator.reports().size() >= 2; }));
  EXPECT_THAT(coordinator.reports(), ::testing::UnorderedElementsAre(3u, 4u));
}

TEST(ShardDirectoryTest, MapsMayComeFromAFollowerReportsGoToItsLeader) {
  ScriptedCoordinator leader;
  ScriptedCoordinator follower;
  follower.SetLeader(leader.address(), false);
  const auto directory = *ShardDirectory::Connect(OptionsFor({follower.address()}));
  directory->ReportSlot(SlotIndex(3), directory->Current()->nodes[0]);
  EXPECT_TRUE(Eventually([&] { return leader.reports().size() == 1; }));
  EXPECT_TRUE(follower.reports().empty());
}

TEST(ShardDirectoryTest, AFollowerWithoutAMapSendsItToTheLeader) {
  ScriptedCoordinator leader;
  leader.SetEpoch(5);
  ScriptedCoordinator follower;
  follower.SetLeader(leader.address(), true);
  const auto directory = ShardDirectory::Connect(OptionsFor({follower.address()}));
  ASSERT_TRUE(directory.has_value()) << directory.error().ToString();
  EXPECT_EQ((*directory)->Current()->epoch, Epoch(5));
}

}  // namespace
}  // namespace engram
