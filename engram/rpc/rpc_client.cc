#include "engram/rpc/rpc_client.h"

#include <map>
#include <optional>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "engram/rpc/frame_connection.h"
#include "engram/rpc/host_lookup.h"
#include "engram/rpc/host_port.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;

class RpcConnection final : public RpcClient {
 public:
  RpcConnection(boost::asio::any_io_executor executor, ByteStream stream)
      : executor_(std::move(executor)),
        connection_(std::make_shared<FrameConnection>(std::move(stream), FrameLimits{})),
        closed_(executor_) {
    closed_.expires_at(boost::asio::steady_timer::time_point::max());
  }
  ~RpcConnection() override {
    connection_->Close(Status(StatusCode::kCancelled, "closed by this side"));
  }

  // The reader keeps the connection, not the client: dropping the client ends both.
  void StartReader() {
    boost::asio::co_spawn(
        executor_,
        [weak = std::weak_ptr<RpcConnection>(
             std::static_pointer_cast<RpcConnection>(shared_from_this())),
         connection = connection_]() -> awaitable<void> {
          while (true) {
            Result<proto::Frame> frame = co_await connection->Receive();
            const auto self = weak.lock();
            if (!self) co_return;
            if (!frame.has_value()) {
              self->EndAll(frame.error());
              co_return;
            }
            self->OnReply(std::move(*frame));
          }
        },
        boost::asio::detached);
  }

  awaitable<Result<std::string>> CallRaw(std::string_view method, std::string body,
                                         milliseconds timeout) override {
    const auto self = shared_from_this();
    const uint64_t id = next_call_++;
    proto::Frame frame;
    frame.set_call_id(id);
    frame.set_method(std::string(method));
    frame.set_body(std::move(body));
    if (const Status peer = connection_->CheckPeer(); !peer.ok()) {
      // As if it had ended by itself: whoever calls connects again.
      connection_->Close(Status(StatusCode::kPeerLost, peer.message()));
      EndAll(connection_->close_reason());
    }
    if (const Status sent = connection_->Send(frame); !sent.ok()) co_return Error(sent);

    const auto call = std::make_shared<Call>(executor_);
    calls_.emplace(id, call);
    call->timer.expires_after(timeout);
    error_code ignored;
    co_await call->timer.async_wait(redirect_error(use_awaitable, ignored));
    calls_.erase(id);
    if (call->result.has_value()) co_return std::move(*call->result);
    co_return Error(StatusCode::kDeadlineExceeded,
                    connection_->peer_address() + " did not answer " + frame.method() + " within " +
                        std::to_string(timeout.count()) + " ms");
  }

  [[nodiscard]] const std::string& leader() const override { return leader_; }
  [[nodiscard]] const std::string& peer_address() const override {
    return connection_->peer_address();
  }

  awaitable<Status> Closed() override {
    const auto self = shared_from_this();
    while (!connection_->closed()) {
      error_code ignored;
      co_await closed_.async_wait(redirect_error(use_awaitable, ignored));
    }
    co_return connection_->close_reason();
  }

  void Close() override {
    connection_->Close(Status(StatusCode::kCancelled, "closed by this side"));
    EndAll(connection_->close_reason());
  }

 private:
  struct Call {
    explicit Call(const boost::asio::any_io_executor& executor) : timer(executor) {}
    boost::asio::steady_timer timer;
    std::optional<Result<std::string>> result;
  };

  void OnReply(proto::Frame frame) {
    if (const Status status = CheckReply(frame); !status.ok()) {
      connection_->Close(status);
      EndAll(status);
      return;
    }
    leader_ = frame.leader();
    const auto found = calls_.find(frame.call_id());
    if (found == calls_.end()) return;  // its deadline has passed
    const StatusCode code = StatusCodeFromProto(frame.code());
    if (code == StatusCode::kOk) {
      found->second->result = std::move(*frame.mutable_body());
    } else {
      found->second->result = Error(code, frame.message());
    }
    found->second->timer.cancel();
  }

  void EndAll(const Status& reason) {
    for (auto& [id, call] : calls_) {
      if (call->result.has_value()) continue;
      call->result = Error(reason.code(), connection_->peer_address() + ": " + reason.message());
      call->timer.cancel();
    }
    closed_.cancel();
  }

  const boost::asio::any_io_executor executor_;
  const std::shared_ptr<FrameConnection> connection_;
  boost::asio::steady_timer closed_;  // cancelled when the connection ends
  std::map<uint64_t, std::shared_ptr<Call>> calls_;
  uint64_t next_call_ = 1;
  std::string leader_;  // of the last reply
};

// Calls `on_late` when the time is up, unless the step it bounds has ended: with this object's
// life.
class StepDeadline {
 public:
  StepDeadline(const boost::asio::any_io_executor& executor, MonotonicTime until,
               std::function<void()> on_late)
      : timer_(executor, until), step_(std::make_shared<Step>()) {
    timer_.async_wait([step = step_, on_late = std::move(on_late)](const error_code& error) {
      if (error || step->ended) return;
      step->late = true;
      on_late();
    });
  }
  ~StepDeadline() { step_->ended = true; }
  StepDeadline(const StepDeadline&) = delete;
  StepDeadline& operator=(const StepDeadline&) = delete;
  [[nodiscard]] bool late() const { return step_->late; }

 private:
  struct Step {
    bool late = false;
    bool ended = false;
  };
  boost::asio::steady_timer timer_;
  std::shared_ptr<Step> step_;
};

// Linux sends a lost SYN again only after one second, then after two more; a peer that was cut off
// for a moment would stay out of reach for as long. So a new attempt begins after this much, which
// is far more than a round trip within a cluster.
constexpr milliseconds kConnectAttempt(250);

// The handshake, and whether the peer is what we came for.
awaitable<Status> Greet(ByteStream& stream, Role role, milliseconds timeout) {
  const Status shaken = co_await stream.Handshake(ByteStream::Side::kClient, timeout);
  if (!shaken.ok()) co_return shaken;
  const auto peer = stream.Peer();
  if (!peer.has_value()) co_return peer.error();
  if (*peer == nullptr || (*peer)->role == role) co_return Status();
  co_return Status(StatusCode::kPermissionDenied,
                   "'" + (*peer)->name + "' has a certificate of role " +
                       std::string(RoleName((*peer)->role)) + ", not of a " +
                       std::string(RoleName(role)) +
                       ": it is another program, or was given another's certificate");
}

}  // namespace

awaitable<Result<std::shared_ptr<RpcClient>>> RpcClient::Connect(
    boost::asio::any_io_executor executor, std::string address, milliseconds timeout,
    ChannelSecurity security, Role server_role) {
  const Result<HostPort> target = ParseHostPort(address);
  if (!target.has_value()) co_return Error(target.error());
  const MonotonicTime until = SteadyClock().Now() + timeout;
  const auto found = co_await LookUpHost(executor, *target, until);
  if (!found.has_value()) {
    co_return Error(found.error().WithContext("no connection to " + address));
  }
  const auto socket = std::make_shared<tcp::socket>(executor);
  const auto stop = [socket] {
    error_code ignored;
    socket->close(ignored);
  };
  const StepDeadline deadline(executor, until, stop);
  error_code error;
  for (bool again = true; again;) {
    const StepDeadline attempt(executor, SteadyClock().Now() + kConnectAttempt, stop);
    co_await boost::asio::async_connect(*socket, *found, redirect_error(use_awaitable, error));
    again = attempt.late() && !deadline.late();
  }
  if (deadline.late()) {
    co_return Error(StatusCode::kDeadlineExceeded, "no connection to " + address + " within " +
                                                       std::to_string(timeout.count()) + " ms");
  }
  if (error) {
    co_return Error(StatusCode::kUnavailable,
                    "cannot connect to " + address + ": " + error.message());
  }
  const bool loopback = socket->remote_endpoint(error).address().is_loopback();
  if (const Status allowed = security.CheckAddress(!error && loopback, address); !allowed.ok()) {
    co_return Error(allowed);
  }
  ByteStream stream(std::move(*socket), security.identity);
  if (const Status status = co_await Greet(stream, server_role, timeout); !status.ok()) {
    co_return Error(status.WithContext(address));
  }
  const auto client = std::make_shared<RpcConnection>(executor, std::move(stream));
  client->StartReader();
  co_return client;
}

namespace {

struct Answer {
  Result<std::string> result;
  std::string leader;
  bool sent = false;

  // Another may answer where this one did not. A call that was sent and not answered may have been
  // done: it is not done again.
  [[nodiscard]] bool ask_another() const {
    return !result.has_value() && (!sent || result.error().code() == StatusCode::kUnavailable) &&
           result.error().code() != StatusCode::kInvalidArgument;
  }
};

Answer AskOnce(const std::string& address, std::string_view method, const std::string& body,
               milliseconds timeout, const ChannelSecurity& security) {
  boost::asio::io_context io;
  Answer answer{Error(StatusCode::kInternal, "the call did not run"), {}, false};
  boost::asio::co_spawn(
      io,
      [&]() -> awaitable<void> {
        auto client = co_await RpcClient::Connect(io.get_executor(), address, timeout, security);
        if (!client.has_value()) {
          answer.result = Error(client.error());
          co_return;
        }
        answer.sent = true;
        answer.result = co_await (*client)->CallRaw(method, body, timeout);
        answer.leader = (*client)->leader();
        (*client)->Close();
      },
      boost::asio::detached);
  io.run();
  if (!answer.result.has_value()) {
    answer.result = Error(answer.result.error().WithContext("coordinator " + address));
  }
  return answer;
}

}  // namespace

Result<std::string> RpcCallOnce(const std::vector<std::string>& addresses, std::string_view method,
                                const std::string& body, milliseconds timeout,
                                const ChannelSecurity& security) {
  Status failure(StatusCode::kInvalidArgument, "no address: give at least one host:port");
  for (size_t i = 0; i < addresses.size(); ++i) {
    Answer answer = AskOnce(addresses[i], method, body, timeout, security);
    if (!answer.leader.empty() && answer.leader != addresses[i]) {
      // The follower's own answer stands where its leader has just been lost.
      Answer led = AskOnce(answer.leader, method, body, timeout, security);
      if (!led.ask_another() || !answer.result.has_value()) answer = std::move(led);
    }
    if (!answer.ask_another()) return std::move(answer.result);
    failure = i == 0 ? answer.result.error()
                     : Status(answer.result.error().code(),
                              failure.message() + "; " + answer.result.error().message());
  }
  return Error(std::move(failure));
}

}  // namespace engram
