// A peer that speaks UCX and the control protocol, and sends what no reader of ours would.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>

#include "engram/rpc/rpc_client.h"
#include "engram/transport/gather_message.h"
#include "engram/transport/ucx/ucx_endpoint.h"
#include "proto/session.pb.h"

namespace engram::test {

// What a well-behaved reader would ask for.
[[nodiscard]] proto::OpenSessionRequest OpenRequest(const NodeTarget& target,
                                                    const std::string& worker_address,
                                                    const std::string& token);

// A session opened by hand: worker, endpoint and control connection without a reader's care.
// Thread-compatible.
class RudePeer final : public UcxMessageHandler {
 public:
  struct Options {
    std::string tls = "tcp";
    ChannelSecurity security = {};
    std::string token = {};
    uint64_t client_id = 0;
    std::vector<std::string> data_hosts = {};
    // What it says where it can be reached.
    std::function<std::string(std::string own_address)> addressed = nullptr;
    // Where it sends instead of the worker that the node named.
    std::function<std::string(std::string node_address)> sends_to = nullptr;
  };
  // ERRORS: those of the connection and of session.Open.
  [[nodiscard]] static Result<std::unique_ptr<RudePeer>> Create(const NodeTarget& target,
                                                                const Options& options);
  ~RudePeer();

  template <typename T>
  T Await(boost::asio::awaitable<T> work) {
    return boost::asio::co_spawn(io_, std::move(work), boost::asio::use_future).get();
  }
  bool OnMessage(uint32_t id, const UcxMessage& message) override;

  // `header` and the body, of bytes 0xff where none is given, are kept until Forget.
  void Send(GatherMessageId id, std::vector<std::byte> header, size_t body_bytes,
            bool eager = true);
  void Send(GatherMessageId id, std::vector<std::byte> header, std::vector<std::byte> body,
            bool eager = true);
  template <typename Header>
  void Send(GatherMessageId id, const Header& header, size_t body_bytes, bool eager = true) {
    const auto bytes = std::as_bytes(std::span(&header, 1));
    Send(id, std::vector<std::byte>(bytes.begin(), bytes.end()), body_bytes, eager);
  }
  // The next sends go over another endpoint to the same worker.
  [[nodiscard]] bool AddEndpoint();
  // Messages whose sending is over are no longer kept.
  void Forget();
  // Sends that UCX has not finished.
  [[nodiscard]] size_t unsent() const { return unsent_; }
  // UCX has given the endpoint up.
  [[nodiscard]] bool broken() const { return endpoints_.back()->failure() != UCS_OK; }

  [[nodiscard]] GatherRequestHeader GoodHeader() const;
  [[nodiscard]] LeaseRequest GoodLease(uint64_t sequence) const;
  [[nodiscard]] const proto::OpenSessionReply& reply() const { return reply_; }
  // Ends the session, and leaves the endpoints.
  void CloseControl();
  [[nodiscard]] std::string own_address() const { return worker_->Address().value(); }
  bool Progress() { return worker_->Progress(); }
  // False: not within `patience`.
  template <typename Done>
  bool Drive(Done done, std::chrono::milliseconds patience = std::chrono::seconds(30)) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!done() && std::chrono::steady_clock::now() < end) worker_->Progress();
    return done();
  }

  std::vector<StatusCode> statuses;  // of replies, as they came
  std::vector<LeaseGrant> grants;
  // Called with each reply too: its header, and the body unless it is still with the node.
  std::function<void(const GatherReplyHeader& header, std::span<const std::byte> body)> on_reply;

 private:
  struct Sent final : UcxCompletion {
    RudePeer* peer = nullptr;
    std::vector<std::byte> header;
    std::vector<std::byte> body;
    bool over = false;
    void OnComplete(ucs_status_t) override;
  };
  static constexpr std::chrono::milliseconds kPatience{30000};

  RudePeer() : work_(boost::asio::make_work_guard(io_)), thread_([this] { io_.run(); }) {}
  Status Open(const NodeTarget& target, const Options& options);

  size_t unsent_ = 0;
  std::deque<Sent> sent_;
  std::unique_ptr<UcxContext> context_;
  std::unique_ptr<UcxWorker> worker_;
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::thread thread_;
  std::shared_ptr<RpcClient> client_;
  proto::OpenSessionReply reply_;
  TableVersion version_;
  uint32_t row_stride_ = 0;
  std::string node_worker_;
  std::vector<std::unique_ptr<UcxEndpoint>> endpoints_;  // the last one is sent over
};

}  // namespace engram::test
