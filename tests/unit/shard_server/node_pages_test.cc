#include "shard_server/node_pages.h"

#include <atomic>
#include <functional>
#include <thread>

#include <boost/asio/io_context.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/test_cluster.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::HttpCall;
using test::HttpReply;
using testing::HasSubstr;

// A node with its pages on a real port; its coordinator is nowhere.
class NodePagesTest : public testing::Test {
 protected:
  void Start(bool enable_test_hooks) {
    MemoryNode::Options node_options;
    node_options.store.memory_bytes_max = 16 << 20;
    node_options.load_function = [this](const LoadJob& job, const LoadOptions&,
                                        LoadControl* control, const OnSlotLoaded& on_loaded) {
      while (control->paused() && !control->cancelled()) {
        std::this_thread::sleep_for(milliseconds(1));
      }
      if (fail_) return Status(StatusCode::kIo, "no \"folder\"");
      for (const EmptySlot& slot : job.slots) on_loaded(slot, 1);
      return Status();
    };
    node_ = std::make_unique<MemoryNode>(io_.get_executor(), &server_, node_options);
    CoordinatorAgent::Options agent_options;
    agent_options.coordinator_address = "127.0.0.1:1";
    agent_ = std::make_unique<CoordinatorAgent>(io_.get_executor(), node_.get(), agent_options);
    const NodeSources sources{"m0", "z0", Incarnation(7), &server_, node_.get(), agent_.get()};
    http_ = HttpServer::Create(io_.get_executor(), {.listen_address = "127.0.0.1:0"},
                               NodePages(sources, enable_test_hooks))
                .value();
  }
  ~NodePagesTest() override {
    http_.reset();
    node_.reset();
    io_.restart();
    io_.run_for(seconds(1));
  }

  void Assign(uint32_t slots) {
    SlotAssignment assignment;
    assignment.version = TableVersion(3);
    assignment.revision = 1;
    assignment.spec = test::SmallSpec();
    assignment.identity = test::SmallIdentity();
    assignment.checkpoint = "scripted";
    assignment.slots = test::SlotList(0, slots);
    node_->Apply(std::move(assignment));
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
  HttpReply Call(const std::string& method, const std::string& target) {
    HttpReply reply;
    std::atomic<bool> done{false};
    std::thread caller([&] {
      reply = HttpCall(http_->address(), method, target);
      done = true;
    });
    EXPECT_TRUE(RunUntil([&] { return done.load(); }));
    caller.join();
    return reply;
  }

  boost::asio::io_context io_{1};
  test::RecordingRowServer server_;
  std::atomic<bool> fail_{false};
  std::unique_ptr<MemoryNode> node_;
  std::unique_ptr<CoordinatorAgent> agent_;
  std::unique_ptr<HttpServer> http_;
};

TEST_F(NodePagesTest, NodeThatNeverRegisteredIsAliveButNotReady) {
  Start(false);
  EXPECT_EQ(Call("GET", "/healthz").status, 200);
  const HttpReply ready = Call("GET", "/readyz");
  EXPECT_EQ(ready.status, 503);
  const auto json = nlohmann::json::parse(ready.body);
  EXPECT_EQ(json["ready"], false);
  EXPECT_THAT(json["reason"].get<std::string>(), HasSubstr("not registered"));
}

TEST_F(NodePagesTest, ReadinessTellsTheErrorOfEachVersion) {
  Start(false);
  fail_ = true;
  Assign(4);
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->loads_failed == 1; }));
  const auto json = nlohmann::json::parse(Call("GET", "/readyz").body);
  ASSERT_EQ(json["versions"].size(), 1u);
  EXPECT_EQ(json["versions"][0]["slots_assigned"], 4);
  EXPECT_EQ(json["versions"][0]["slots_ready"], 0);
  EXPECT_EQ(json["versions"][0]["error"], "IO: no \"folder\"");
}

TEST_F(NodePagesTest, MetricsFollowThePrometheusTextFormat) {
  Start(false);
  Assign(4);
  ASSERT_TRUE(RunUntil([&] {
    return node_->snapshot()->versions.size() == 1 && node_->snapshot()->versions[0].complete();
  }));
  const std::string text = Call("GET", "/metrics").body;
  EXPECT_THAT(text, HasSubstr("# TYPE engram_node_rows_total counter\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE engram_node_gather_seconds histogram\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_shard_map_epoch{version=\"3\"} "));
  EXPECT_THAT(text, HasSubstr("engram_node_slots{version=\"3\",state=\"assigned\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_slots{version=\"3\",state=\"ready\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_corrupt_rows_found_total 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_rows_repaired_total 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_damaged_slots{version=\"3\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_scrub_bytes_total 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_scrub_last_pass_seconds 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_memory_used_bytes{use=\"replacing\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_memory_limit_bytes 16777216\n"));
  EXPECT_THAT(text, HasSubstr("engram_node_coordinator_connected 0\n"));
}

TEST_F(NodePagesTest, FlipByteDamagesTheRowNamed) {
  Start(true);
  Assign(4);
  ASSERT_TRUE(RunUntil([&] {
    return node_->snapshot()->versions.size() == 1 && node_->snapshot()->versions[0].complete();
  }));
  const std::byte* rows = server_.Served(3)->Rows(SlotIndex(2));
  const uint32_t stride = test::SmallLayout()->row_stride();
  EXPECT_EQ(Call("POST", "/test/flip_byte?version=3&slot=2&row=1&byte=4").status, 200);
  EXPECT_EQ(rows[stride + 4], std::byte{0xff});
  EXPECT_EQ(Call("POST", "/test/flip_byte?version=3&slot=2&row=1&byte=4000").status, 400);
  EXPECT_EQ(Call("POST", "/test/flip_byte?version=3&slot=200&row=1&byte=4").status, 404);
  EXPECT_EQ(Call("POST", "/test/flip_byte?version=4&slot=2&row=1&byte=4").status, 404);
  EXPECT_EQ(Call("POST", "/test/flip_byte?version=3&slot=2&row=1").status, 400);
  EXPECT_EQ(Call("POST", "/test/flip_byte?version=3&slot=x&row=1&byte=1").status, 400);
  EXPECT_EQ(Call("GET", "/test/flip_byte?version=3&slot=2&row=1&byte=4").status, 404);
}

TEST_F(NodePagesTest, PausedLoadGoesOnWhenTold) {
  Start(true);
  EXPECT_EQ(Call("POST", "/test/pause_loading?paused=1").status, 200);
  Assign(4);
  ASSERT_TRUE(RunUntil([&] { return node_->snapshot()->loading; }));
  EXPECT_EQ(node_->snapshot()->versions[0].ready->size(), 0u);
  EXPECT_EQ(Call("POST", "/test/pause_loading?paused=2").status, 400);
  EXPECT_EQ(Call("POST", "/test/pause_loading?paused=0").status, 200);
  EXPECT_TRUE(RunUntil([&] { return node_->snapshot()->versions[0].complete(); }));
}

TEST_F(NodePagesTest, TestHooksAreNotThereUnlessEnabled) {
  Start(false);
  Assign(4);
  EXPECT_EQ(Call("POST", "/test/flip_byte?version=3&slot=2&row=1&byte=4").status, 404);
  EXPECT_EQ(Call("POST", "/test/pause_loading?paused=1").status, 404);
  EXPECT_FALSE(node_->snapshot()->loading_paused);
}

}  // namespace
}  // namespace engram
