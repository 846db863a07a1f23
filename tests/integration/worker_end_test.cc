// How a serving model worker ends, against a real cluster.
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using json = nlohmann::json;
using testing::HasSubstr;

constexpr std::chrono::seconds kPatience{60};

// A worker whose rows stand still where the test wants it: its nodes are stopped meanwhile, for
// less than they would be taken for lost.
class WorkerEndTest : public testing::Test {
 protected:
  void Serve(const std::vector<std::string>& flags) {
    auto cluster = TestCluster::Start({});
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = std::move(*cluster);
    const auto announce = cluster_->scratch() / "worker.json";
    log_ = cluster_->scratch() / "worker.log";
    std::vector<std::string> argv = {std::string(ENGRAM_BIN_DIR) + "/engram-model-worker",
                                     "serve",
                                     "--model",
                                     cluster_->model_dir().string(),
                                     "--coordinator",
                                     cluster_->coordinator_address(),
                                     "--transport",
                                     "tcp",
                                     "--row-deadline-ms",
                                     "60000",
                                     "--listen",
                                     "127.0.0.1:0",
                                     "--announce-file",
                                     announce.string()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    auto started = ChildProcess::Start(argv, log_);
    ASSERT_TRUE(started.has_value()) << started.error().ToString();
    worker_ = std::move(*started);
    const auto announcement = AwaitAnnouncement(announce, worker_, log_);
    ASSERT_TRUE(announcement.has_value()) << announcement.error().ToString();
    address_ = (*announcement)["http"].get<std::string>();
  }
  void TearDown() override {
    if (cluster_ != nullptr) SignalNodes(SIGCONT);
  }

  void SignalNodes(int signal) {
    for (int i = 0; i < cluster_->node_count(); ++i) cluster_->node(i).Signal(signal);
  }
  [[nodiscard]] HttpReply Complete(const std::string& prompt) const {
    const json body = {{"prompt", prompt}, {"max_tokens", 64}, {"temperature", 0}};
    return HttpCall(address_, "POST", "/v1/completions", body.dump());
  }
  // A request that cannot end before the nodes go on.
  [[nodiscard]] std::future<HttpReply> Begin(const std::string& prompt) {
    SignalNodes(SIGSTOP);
    auto reply = std::async(std::launch::async, [this, prompt] { return Complete(prompt); });
    Await("GET", "/metrics", [](const HttpReply& page) {
      return page.body.find("engram_worker_requests_running 1\n") != std::string::npos;
    });
    return reply;
  }
  void Await(const std::string& method, const std::string& path,
             const std::function<bool(const HttpReply&)>& holds) const {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (!holds(HttpCall(address_, method, path))) {
      ASSERT_LT(std::chrono::steady_clock::now(), until) << path << "\n" << ReadFile(log_);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  void AwaitNotReady() const {
    Await("GET", "/readyz", [](const HttpReply& page) { return page.status == 503; });
  }

  std::unique_ptr<TestCluster> cluster_;
  std::filesystem::path log_;
  ChildProcess worker_;
  std::string address_;
};

TEST_F(WorkerEndTest, ASignalLetsWhatRunsEndRefusesWhatIsNewAndTheProcessEndsWith0) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--cache-bytes", "0"}));
  const HttpReply before = Complete("The quick brown fox");
  ASSERT_EQ(before.status, 200) << before.body;
  std::future<HttpReply> running = Begin("The quick brown fox");
  worker_.Signal(SIGTERM);
  AwaitNotReady();
  const HttpReply refused = Complete("Every row is checked");
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.body, HasSubstr("takes no new requests"));
  EXPECT_EQ(HttpCall(address_, "GET", "/healthz").status, 200);
  EXPECT_TRUE(worker_.running());
  SignalNodes(SIGCONT);
  const HttpReply whole = running.get();
  ASSERT_EQ(whole.status, 200) << whole.body << ReadFile(log_);
  EXPECT_EQ(json::parse(whole.body)["choices"], json::parse(before.body)["choices"]);
  EXPECT_EQ(json::parse(whole.body)["usage"], json::parse(before.body)["usage"]);
  EXPECT_GT(json::parse(whole.body)["usage"]["completion_tokens"].get<int>(), 1);
  EXPECT_EQ(worker_.Wait(kPatience), 0) << ReadFile(log_);
  EXPECT_THAT(ReadFile(log_), HasSubstr("all requests are answered: stopping, 0 requests end"));
}

TEST_F(WorkerEndTest, ASecondSignalEndsRequestsWithAnError) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--cache-bytes", "0"}));
  std::future<HttpReply> running = Begin("The quick brown fox");
  worker_.Signal(SIGTERM);
  AwaitNotReady();
  worker_.Signal(SIGTERM);
  // The step in progress ends first.
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (ReadFile(log_).find("signal 15: stopping, 1 requests end") == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), until) << ReadFile(log_);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  SignalNodes(SIGCONT);
  const HttpReply ended = running.get();
  EXPECT_EQ(ended.status, 503) << ended.body;
  EXPECT_THAT(ended.body, HasSubstr("cancelled"));
  EXPECT_EQ(worker_.Wait(kPatience), 0) << ReadFile(log_);
}

TEST_F(WorkerEndTest, WhatRunsAfterTheDrainTimeoutEndsWithAnError) {
  ASSERT_NO_FATAL_FAILURE(Serve({"--cache-bytes", "0", "--drain-timeout-s", "0"}));
  std::future<HttpReply> running = Begin("The quick brown fox");
  worker_.Signal(SIGTERM);
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (ReadFile(log_).find("--drain-timeout-s is over: stopping") == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), until) << ReadFile(log_);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  SignalNodes(SIGCONT);
  EXPECT_EQ(running.get().status, 503);
  EXPECT_EQ(worker_.Wait(kPatience), 0) << ReadFile(log_);
}

}  // namespace
}  // namespace engram::test
