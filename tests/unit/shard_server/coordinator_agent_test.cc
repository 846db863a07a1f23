#include "shard_server/coordinator_agent.h"

#include <functional>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/rpc/rpc_server.h"
#include "engram/table/table_proto.h"
#include "shard_server/node_pages.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::RecordingRowServer;
using testing::ElementsAre;
using testing::HasSubstr;

// A coordinator on a real socket whose answers a test writes.
class ScriptedCoordinator {
 public:
  ScriptedCoordinator(boost::asio::io_context* io, const std::string& listen) : io_(io) {
    RpcServer::Options options;
    options.listen_address = listen;
    options.leader = [this] { return leader; };
    server_ = RpcServer::Create(io->get_executor(), options,
                                [this](const RpcPeer&, std::string_view method, std::string body) {
                                  return Answer(std::string(method), std::move(body));
                                })
                  .value();
  }
  std::string address() const { return server_->address(); }

  // What a heartbeat is answered with; unset = an empty reply after `wait_ms`.
  std::function<Result<proto::HeartbeatReply>(const proto::HeartbeatRequest&)> on_heartbeat;
  uint64_t term = 1;
  std::string leader;  // not empty: it follows, and refuses everything
  std::vector<proto::RegisterNodeRequest> registrations;
  std::vector<proto::HeartbeatRequest> heartbeats;
  int refusals = 0;

 private:
  boost::asio::awaitable<Result<std::string>> Answer(std::string method, std::string body) {
    if (!leader.empty()) {
      ++refusals;
      co_return Error(StatusCode::kUnavailable, "this coordinator follows");
    }
    if (method == "node.Register") {
      EXPECT_TRUE(registrations.emplace_back().ParseFromString(body));
      proto::RegisterNodeReply reply;
      reply.set_term(term);
      reply.set_heartbeat_interval_ms(50);
      co_return reply.SerializeAsString();
    }
    EXPECT_EQ(method, "node.Heartbeat");
    proto::HeartbeatRequest request;
    EXPECT_TRUE(request.ParseFromString(body));
    heartbeats.push_back(request);
    auto answer = on_heartbeat ? on_heartbeat(request)
                               : Result<proto::HeartbeatReply>(proto::HeartbeatReply());
    if (!answer.has_value()) co_return Error(answer.error());
    if (answer->term() == 0) answer->set_term(term);
    if (answer->changed_size() == 0 && answer->dropped_versions_size() == 0) {
      boost::asio::steady_timer wait(*io_, milliseconds(request.wait_ms()));
      co_await wait.async_wait(boost::asio::use_awaitable);
    }
    co_return answer->SerializeAsString();
  }

  boost::asio::io_context* io_;
  std::unique_ptr<RpcServer> server_;
};

class CoordinatorAgentTest : public testing::Test {
 protected:
  CoordinatorAgentTest() {
    coordinator_ = std::make_unique<ScriptedCoordinator>(&io_, "127.0.0.1:0");
    Make(0);
  }
  // Node and agent, anew; with scrub, every row is found damaged: the loads write none.
  void Make(uint64_t scrub_bytes_per_s_max) {
    agent_.reset();
    MemoryNode::Options node_options;
    node_options.scrub_bytes_per_s_max = scrub_bytes_per_s_max;
    node_options.store.memory_bytes_max = 16 << 20;
    node_options.load_function = [](const LoadJob& job, const LoadOptions&, LoadControl* control,
                                    const OnSlotLoaded& on_loaded) {
      while (control->paused() && !control->cancelled()) {
        std::this_thread::sleep_for(milliseconds(1));
      }
      for (const EmptySlot& slot : job.slots) on_loaded(slot, 100 + slot.slot.value());
      return Status();
    };
    node_ = std::make_unique<MemoryNode>(io_.get_executor(), &server_, node_options);
    CoordinatorAgent::Options options;
    options.coordinator_address = coordinator_->address();
    options.description.set_id("m0");
    options.description.set_incarnation(77);
    options.description.set_capacity_bytes(16 << 20);
    options.backoff_min = milliseconds(2);
    options.backoff_max = milliseconds(20);
    options.call_timeout = milliseconds(2000);
    options.loading_interval = milliseconds(5);
    agent_ = std::make_unique<CoordinatorAgent>(io_.get_executor(), node_.get(), options);
  }
  ~CoordinatorAgentTest() override {
    agent_->Stop();
    coordinator_.reset();
    io_.restart();
    io_.run_for(milliseconds(10));
    node_.reset();
    io_.restart();
    io_.run_for(seconds(1));
  }

  bool RunUntil(const std::function<bool()>& done) {
    const auto until = std::chrono::steady_clock::now() + seconds(20);
    while (!done()) {
      if (std::chrono::steady_clock::now() > until) return false;
      io_.restart();
      io_.run_for(milliseconds(2));
    }
    return true;
  }

  static proto::SlotAssignment Assignment(uint64_t revision, const std::vector<uint32_t>& slots) {
    proto::SlotAssignment message;
    message.set_version(5);
    message.set_revision(revision);
    message.set_newest_epoch(3);
    *message.mutable_spec() = TableSpecToProto(test::SmallSpec());
    message.set_model_identity(ModelIdentityToBytes(test::SmallIdentity()));
    message.set_checkpoint_path("scripted");
    for (const uint32_t slot : slots) {
      message.add_slots(slot);
      message.add_digests(0);
    }
    return message;
  }
  // Answers with this assignment until a heartbeat knows its revision.
  void Assign(proto::SlotAssignment assignment) {
    coordinator_->on_heartbeat =
        [assignment = std::move(assignment)](const proto::HeartbeatRequest& request) {
          proto::HeartbeatReply reply;
          for (int i = 0; i < request.known_versions_size(); ++i) {
            if (request.known_versions(i) == assignment.version() &&
                request.known_assignment_revisions(i) == assignment.revision()) {
              return Result<proto::HeartbeatReply>(reply);
            }
          }
          *reply.add_changed() = assignment;
          return Result<proto::HeartbeatReply>(reply);
        };
  }
  // The last held version told that has `revision`; null when there is none.
  const proto::HeldVersion* LastHeld(uint64_t revision) {
    for (auto beat = coordinator_->heartbeats.rbegin(); beat != coordinator_->heartbeats.rend();
         ++beat) {
      for (const proto::HeldVersion& held : beat->held()) {
        if (held.assignment_revision() == revision) return &held;
      }
    }
    return nullptr;
  }

  boost::asio::io_context io_{1};
  RecordingRowServer server_;
  std::unique_ptr<MemoryNode> node_;
  std::unique_ptr<ScriptedCoordinator> coordinator_;
  std::unique_ptr<CoordinatorAgent> agent_;
};

TEST_F(CoordinatorAgentTest, RegistersOnceAndThenHeartbeats) {
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] { return coordinator_->heartbeats.size() >= 3; }));
  ASSERT_EQ(coordinator_->registrations.size(), 1u);
  EXPECT_EQ(coordinator_->registrations[0].node().id(), "m0");
  EXPECT_EQ(coordinator_->registrations[0].node().incarnation(), 77u);
  EXPECT_EQ(coordinator_->heartbeats[0].incarnation(), 77u);
  EXPECT_EQ(coordinator_->heartbeats[0].term(), 1u);
  EXPECT_EQ(coordinator_->heartbeats[0].wait_ms(), 50u);
  EXPECT_TRUE(agent_->figures().registered);
}

TEST_F(CoordinatorAgentTest, DamageThatScrubFindsIsToldUntilAnAssignmentNamesIt) {
  Make(1 << 30);
  Assign(Assignment(1, {4, 6}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] {
    const proto::HeldVersion* held = LastHeld(1);
    return held != nullptr && held->damaged_slots_size() == 2;
  }));
  EXPECT_THAT(LastHeld(1)->damaged_slots(), ElementsAre(4, 6));
  EXPECT_GT(coordinator_->heartbeats.back().corrupt_rows_found(), 0u);
  EXPECT_EQ(coordinator_->heartbeats.back().rows_repaired(), 0u);
  proto::SlotAssignment named = Assignment(2, {4, 6});
  named.add_damaged_slots(4);
  named.add_damaged_slots(6);
  Assign(named);
  ASSERT_TRUE(RunUntil([&] { return LastHeld(2) != nullptr; }));
  EXPECT_EQ(LastHeld(2)->damaged_slots_size(), 0);
  ASSERT_TRUE(RunUntil([&] { return coordinator_->heartbeats.back().rows_repaired() > 0; }));
}

TEST_F(CoordinatorAgentTest, AssignedSlotsAreLoadedAndToldWithDigests) {
  Assign(Assignment(1, {4, 6}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] {
    const proto::HeldVersion* held = LastHeld(1);
    return held != nullptr && held->ready_slots_size() == 2;
  }));
  const proto::HeldVersion held = *LastHeld(1);
  EXPECT_THAT(held.ready_slots(), ElementsAre(4, 6));
  EXPECT_THAT(held.ready_digests(), ElementsAre(104, 106));
  EXPECT_EQ(held.bytes_loaded(), held.bytes_total());
  EXPECT_EQ(held.error(), proto::OK);
}

TEST_F(CoordinatorAgentTest, NodeIsReadyOnlyOnceTheAssignmentThatCameIsLoaded) {
  const NodeSources sources{"m0", "", Incarnation(77), &server_, node_.get(), agent_.get()};
  node_->SetLoadingPaused(true);
  Assign(Assignment(1, {4, 6}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] {
    EXPECT_FALSE(NodeReadiness(sources).ready);
    return node_->snapshot()->loading;
  }));
  EXPECT_THAT(NodeReadiness(sources).detail_json, HasSubstr("0 of 2 slots are ready"));
  node_->SetLoadingPaused(false);
  EXPECT_TRUE(RunUntil([&] { return NodeReadiness(sources).ready; }));
  coordinator_.reset();
  ASSERT_TRUE(RunUntil([&] { return !agent_->figures().connected; }));
  EXPECT_TRUE(NodeReadiness(sources).ready);
}

TEST_F(CoordinatorAgentTest, HeldVersionIsToldAgainOnlyWhenItChanged) {
  Assign(Assignment(1, {4}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] {
    const proto::HeldVersion* held = LastHeld(1);
    return held != nullptr && held->ready_slots_size() == 1;
  }));
  const size_t told = coordinator_->heartbeats.size();
  ASSERT_TRUE(RunUntil([&] { return coordinator_->heartbeats.size() >= told + 3; }));
  EXPECT_EQ(coordinator_->heartbeats.back().held_size(), 0);
  EXPECT_THAT(coordinator_->heartbeats.back().known_versions(), ElementsAre(5));
  EXPECT_THAT(coordinator_->heartbeats.back().known_assignment_revisions(), ElementsAre(1));
}

TEST_F(CoordinatorAgentTest, NotFoundMakesItRegisterAgainAndTellEverything) {
  Assign(Assignment(1, {4}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] { return LastHeld(1) != nullptr; }));
  size_t next = 0;  // the heartbeat after the one that is answered NOT_FOUND
  const auto assign = coordinator_->on_heartbeat;
  coordinator_->on_heartbeat =
      [&](const proto::HeartbeatRequest& request) -> Result<proto::HeartbeatReply> {
    if (next == 0) {
      next = coordinator_->heartbeats.size();
      return Error(StatusCode::kNotFound, "no node m0");
    }
    return assign(request);
  };
  ASSERT_TRUE(RunUntil([&] { return coordinator_->registrations.size() == 2; }));
  ASSERT_TRUE(RunUntil([&] { return coordinator_->heartbeats.size() > next; }));
  EXPECT_EQ(coordinator_->heartbeats[next].held_size(), 1);
  EXPECT_THAT(coordinator_->heartbeats[next].known_assignment_revisions(), ElementsAre(0));
  ASSERT_TRUE(RunUntil([&] {
    return coordinator_->heartbeats.back().known_assignment_revisions_size() == 1 &&
           coordinator_->heartbeats.back().known_assignment_revisions(0) == 1;
  }));
}

TEST_F(CoordinatorAgentTest, RepliesOfALowerTermAreIgnored) {
  coordinator_->term = 7;
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] { return agent_->figures().heartbeats_answered >= 1; }));
  coordinator_->on_heartbeat = [](const proto::HeartbeatRequest&) {
    proto::HeartbeatReply reply;
    reply.set_term(6);
    *reply.add_changed() = Assignment(1, {4});
    return Result<proto::HeartbeatReply>(reply);
  };
  ASSERT_TRUE(RunUntil([&] { return agent_->figures().replies_refused >= 2; }));
  EXPECT_EQ(agent_->figures().term, 7u);
  EXPECT_FALSE(agent_->figures().connected);
  EXPECT_TRUE(node_->snapshot()->versions.empty());
}

TEST_F(CoordinatorAgentTest, CoordinatorThatIsDownChangesNothingAndIsFoundAgain) {
  Assign(Assignment(1, {4}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] {
    const proto::HeldVersion* held = LastHeld(1);
    return held != nullptr && held->ready_slots_size() == 1;
  }));
  const std::string address = coordinator_->address();
  coordinator_.reset();
  ASSERT_TRUE(RunUntil([&] { return !agent_->figures().connected; }));
  EXPECT_NE(server_.Served(5)->Rows(SlotIndex(4)), nullptr);
  coordinator_ = std::make_unique<ScriptedCoordinator>(&io_, address);
  ASSERT_TRUE(RunUntil([&] { return !coordinator_->heartbeats.empty(); }));
  // It did not say NOT_FOUND, so there is no second registration; but all is told again.
  EXPECT_TRUE(coordinator_->registrations.empty());
  ASSERT_EQ(coordinator_->heartbeats[0].held_size(), 1);
  EXPECT_EQ(coordinator_->heartbeats[0].held(0).ready_slots_size(), 1);
}

TEST_F(CoordinatorAgentTest, FollowerNamesTheLeaderAndAllIsToldThere) {
  Assign(Assignment(1, {4}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] {
    const proto::HeldVersion* held = LastHeld(1);
    return held != nullptr && held->ready_slots_size() == 1;
  }));
  // Its coordinator is deposed: the new leader has a higher term and has not heard of this node.
  ScriptedCoordinator leader(&io_, "127.0.0.1:0");
  leader.term = 9;
  coordinator_->leader = leader.address();
  ASSERT_TRUE(RunUntil([&] { return !leader.heartbeats.empty(); }));
  EXPECT_EQ(coordinator_->refusals, 1);
  ASSERT_EQ(leader.heartbeats[0].held_size(), 1);
  EXPECT_EQ(leader.heartbeats[0].held(0).ready_slots_size(), 1);
  ASSERT_TRUE(RunUntil([&] { return agent_->figures().term == 9; }));
  agent_->Stop();
  io_.restart();
  io_.run_for(milliseconds(50));
}

TEST_F(CoordinatorAgentTest, DroppedVersionIsHeldNoLonger) {
  Assign(Assignment(1, {4}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->versions.size() == 1; }));
  coordinator_->on_heartbeat = [](const proto::HeartbeatRequest& request) {
    proto::HeartbeatReply reply;
    if (request.known_versions_size() > 0) reply.add_dropped_versions(5);
    return Result<proto::HeartbeatReply>(reply);
  };
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->versions.empty(); }));
  EXPECT_EQ(server_.Served(5), nullptr);
}

TEST_F(CoordinatorAgentTest, NewestEpochsAndTheCopyBoundAreTakenFromEveryReply) {
  Assign(Assignment(1, {4}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] { return LastHeld(1) != nullptr; }));
  coordinator_->on_heartbeat = [](const proto::HeartbeatRequest&) {
    proto::HeartbeatReply reply;
    reply.add_versions(5);
    reply.add_newest_epochs(8);
    reply.set_copy_bytes_per_s_max(1234);
    return Result<proto::HeartbeatReply>(reply);
  };
  ASSERT_TRUE(RunUntil([&] { return server_.Served(5)->newest_epoch() == Epoch(8); }));
  coordinator_->on_heartbeat = [](const proto::HeartbeatRequest&) {
    proto::HeartbeatReply reply;
    reply.add_versions(5);
    return Result<proto::HeartbeatReply>(reply);
  };
  ASSERT_TRUE(RunUntil([&] { return agent_->figures().replies_refused > 0; }));
  EXPECT_EQ(server_.Served(5)->newest_epoch(), Epoch(8));
}

TEST_F(CoordinatorAgentTest, BytesThatWaitForReadersAreTold) {
  Assign(Assignment(1, {4, 6}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] {
    const proto::HeldVersion* held = LastHeld(1);
    return held != nullptr && held->ready_slots_size() == 2;
  }));
  server_.acknowledged = Epoch(0);
  Assign(Assignment(2, {4}));
  const uint64_t slot_bytes = test::SmallLayout()->slot_bytes(SlotIndex(6));
  ASSERT_TRUE(
      RunUntil([&] { return coordinator_->heartbeats.back().releasing_bytes() == slot_bytes; }));
  EXPECT_NE(server_.Served(5)->Rows(SlotIndex(6)), nullptr);
  server_.acknowledged = Epoch(3);
  ASSERT_TRUE(RunUntil([&] { return coordinator_->heartbeats.back().releasing_bytes() == 0; }));
  EXPECT_EQ(server_.Served(5)->Rows(SlotIndex(6)), nullptr);
}

TEST_F(CoordinatorAgentTest, MalformedAssignmentIsRefusedToldOnceKnownAndHealedByAGoodOne) {
  proto::SlotAssignment bad = Assignment(1, {4, 4});
  Assign(bad);
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] { return LastHeld(1) != nullptr; }));
  EXPECT_EQ(LastHeld(1)->error(), proto::MALFORMED);
  EXPECT_THAT(LastHeld(1)->error_message(), HasSubstr("not ascending"));
  EXPECT_EQ(agent_->figures().replies_refused, 1u);
  Assign(Assignment(2, {4}));
  ASSERT_TRUE(RunUntil([&] {
    const proto::HeldVersion* held = LastHeld(2);
    return held != nullptr && held->ready_slots_size() == 1 && held->error() == proto::OK;
  }));
}

TEST_F(CoordinatorAgentTest, RefusedAssignmentIsToldWithItsReason) {
  Assign(Assignment(1, {test::SmallLayout()->slot_count()}));
  agent_->Start();
  ASSERT_TRUE(RunUntil([&] { return LastHeld(1) != nullptr; }));
  EXPECT_EQ(LastHeld(1)->error(), proto::INVALID_ARGUMENT);
  EXPECT_THAT(LastHeld(1)->error_message(), HasSubstr("out of range"));
}

}  // namespace
}  // namespace engram
