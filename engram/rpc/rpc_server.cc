#include "engram/rpc/rpc_server.h"

#include <chrono>
#include <exception>
#include <map>
#include <unordered_map>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <google/protobuf/stubs/logging.h>
#include <spdlog/spdlog.h>

#include "engram/base/tell_rate.h"
#include "engram/rpc/frame_connection.h"
#include "engram/rpc/host_port.h"
#include "engram/security/permissions.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

// Of replies that a peer does not take.
constexpr uint64_t kPauseReadingBytes = 1u << 20;
// Refusals and faults of peers in the logs: peers must not fill a disk, nor push out of the audit
// log what it is there for.
constexpr uint32_t kRefusalsToldPerSecond = 20;

// Empty when the peer has gone already.
std::string HostOf(const tcp::socket& socket) {
  error_code error;
  const tcp::endpoint peer = socket.remote_endpoint(error);
  return error ? "" : peer.address().to_string();
}

// What accepted connections and their calls share; kept by their coroutines, so that a call that
// suspends longer than the server lives still finds its handler.
struct ServerState : std::enable_shared_from_this<ServerState> {
  ServerState(boost::asio::any_io_executor executor_in, RpcServer::Options options_in,
              RpcServer::Handler handler_in, RpcServer::OnDisconnect on_disconnect_in,
              tcp::acceptor acceptor_in)
      : executor(std::move(executor_in)),
        options(std::move(options_in)),
        handler(std::move(handler_in)),
        on_disconnect(std::move(on_disconnect_in)),
        acceptor(std::move(acceptor_in)) {}

  awaitable<void> Accept();
  [[nodiscard]] bool HasRoomFor(const std::string& host);
  awaitable<void> Greet(tcp::socket socket, std::string host);
  awaitable<void> Serve(std::shared_ptr<FrameConnection> connection, RpcPeer peer);
  awaitable<void> Answer(std::shared_ptr<FrameConnection> connection, RpcPeer peer,
                         proto::Frame request);
  void Stop();
  // Whether a refusal is told in the logs. Those that were not are told with the next one.
  [[nodiscard]] bool IsTold();

  const boost::asio::any_io_executor executor;
  const RpcServer::Options options;
  const RpcServer::Handler handler;
  RpcServer::OnDisconnect on_disconnect;
  tcp::acceptor acceptor;
  bool stopped = false;
  uint64_t next_connection = 1;
  std::map<uint64_t, std::shared_ptr<ByteStream>> greeting;  // in their handshakes, oldest first
  uint64_t next_greeting = 1;
  TellRate refusals{kRefusalsToldPerSecond};
  std::unordered_map<uint64_t, std::shared_ptr<FrameConnection>> connections;
  std::unordered_map<uint64_t, uint32_t> calls_in_flight;  // by connection
  std::unordered_map<std::string, uint32_t> open_by_host;  // those in handshakes too
};

// Counts a connection with its host while it lives.
class HostCount {
 public:
  HostCount(std::shared_ptr<ServerState> state, std::string host)
      : state_(std::move(state)), host_(std::move(host)) {
    ++state_->open_by_host[host_];
  }
  ~HostCount() {
    if (--state_->open_by_host[host_] == 0) state_->open_by_host.erase(host_);
  }
  HostCount(const HostCount&) = delete;
  HostCount& operator=(const HostCount&) = delete;

 private:
  const std::shared_ptr<ServerState> state_;
  const std::string host_;
};

awaitable<void> ServerState::Accept() {
  const auto self = shared_from_this();
  while (!stopped) {
    error_code error;
    tcp::socket socket = co_await acceptor.async_accept(redirect_error(use_awaitable, error));
    if (stopped || error == boost::asio::error::operation_aborted) co_return;
    if (error) {
      // Out of descriptors, most likely: waiting gives others the time to end.
      spdlog::warn("cannot accept a connection: {}", error.message());
      boost::asio::steady_timer pause(executor, std::chrono::milliseconds(100));
      co_await pause.async_wait(redirect_error(use_awaitable, error));
      continue;
    }
    const std::string host = HostOf(socket);
    if (!HasRoomFor(host)) continue;
    // Those without a certificate must not keep out those with one: who has waited longest goes.
    if (greeting.size() >= options.handshakes_max) greeting.begin()->second->Close();
    boost::asio::co_spawn(executor, Greet(std::move(socket), host), boost::asio::detached);
  }
}

bool ServerState::HasRoomFor(const std::string& host) {
  const size_t open = connections.size();
  const size_t left = open < options.connections_max ? options.connections_max - open : 0;
  const auto of_host = open_by_host.find(host);
  const size_t count = of_host == open_by_host.end() ? 0 : of_host->second;
  if (count < left) return true;
  if (IsTold()) {
    spdlog::warn("closed a new connection of {}: {} of {} are open, {} of them its own", host, open,
                 options.connections_max, count);
  }
  return false;
}

awaitable<void> ServerState::Greet(tcp::socket socket, std::string host) {
  const auto self = shared_from_this();
  const HostCount counted(self, std::move(host));
  const auto stream = std::make_shared<ByteStream>(std::move(socket), options.security.identity);
  const uint64_t number = next_greeting++;
  greeting.emplace(number, stream);
  Status status = co_await stream->Handshake(ByteStream::Side::kServer, options.handshake_timeout);
  greeting.erase(number);
  if (stopped) co_return;
  RpcPeer peer;
  if (status.ok()) {
    auto identity = stream->Peer();
    if (identity.has_value()) peer.identity = *std::move(identity);
    if (!identity.has_value()) status = identity.error();
  }
  FrameLimits limits;
  limits.frame_bytes_max = options.frame_bytes_max;
  limits.expect_first_frame = true;
  limits.frame_timeout = options.frame_timeout;
  limits.pause_reading_bytes = kPauseReadingBytes;
  auto connection = std::make_shared<FrameConnection>(std::move(*stream), limits);
  peer.address = connection->peer_address();
  if (!status.ok()) {
    if (IsTold()) {
      spdlog::warn("refused the connection of {}: {}", peer.address, status.ToString());
      if (options.audit != nullptr) {
        options.audit->Write({nullptr, peer.address, "connect", {}, status});
      }
    }
    connection->Close(status);
    co_return;
  }
  peer.connection_id = next_connection++;
  connections.emplace(peer.connection_id, connection);
  co_await Serve(std::move(connection), std::move(peer));
}

awaitable<void> ServerState::Serve(std::shared_ptr<FrameConnection> connection, RpcPeer peer) {
  while (true) {
    Result<proto::Frame> request = co_await connection->Receive();
    if (!request.has_value()) {
      if (request.error().code() != StatusCode::kPeerLost &&
          request.error().code() != StatusCode::kCancelled && IsTold()) {
        spdlog::warn("closed the connection of {}: {}", peer.address, request.error().ToString());
      }
      break;
    }
    if (const Status status = CheckRequest(*request); !status.ok()) {
      if (IsTold()) {
        spdlog::warn("closed the connection of {}: {}", peer.address, status.ToString());
      }
      connection->Close(status);
      break;
    }
    uint32_t& in_flight = calls_in_flight[peer.connection_id];
    if (in_flight >= options.calls_in_flight_max) {
      proto::Frame refusal;
      refusal.set_call_id(request->call_id());
      refusal.set_code(StatusCodeToProto(StatusCode::kResourceExhausted));
      refusal.set_message(std::to_string(in_flight) +
                          " calls are in flight on this connection (calls_in_flight_max): await "
                          "some replies first");
      if (const Status sent = connection->Send(refusal); !sent.ok()) connection->Close(sent);
      continue;
    }
    ++in_flight;
    boost::asio::co_spawn(executor, Answer(connection, peer, std::move(*request)),
                          boost::asio::detached);
  }
  connections.erase(peer.connection_id);
  calls_in_flight.erase(peer.connection_id);
  if (on_disconnect && !stopped) on_disconnect(peer);
}

awaitable<void> ServerState::Answer(std::shared_ptr<FrameConnection> connection, RpcPeer peer,
                                    proto::Frame request) {
  const auto self = shared_from_this();
  Result<std::string> body = Error(StatusCode::kInternal, "no reply");
  const bool change = options.audit != nullptr && IsChange(request.method());
  bool told = true;
  bool allowed = false;
  std::string about;
  if (change && options.describe) about = options.describe(request.method(), request.body());
  try {
    const Status may =
        peer.identity == nullptr ? Status() : CheckCall(*peer.identity, request.method());
    allowed = may.ok();
    if (allowed) {
      body = co_await handler(peer, request.method(), std::move(*request.mutable_body()));
    } else {
      told = IsTold();
      if (told) {
        spdlog::warn("refused {} to {}: {}", request.method(), peer.address, may.message());
      }
      body = Error(may);
    }
  } catch (const std::exception& error) {
    spdlog::error("{} from {} threw: {}", request.method(), peer.address, error.what());
    body = Error(StatusCode::kInternal, std::string("a bug in the server: ") + error.what());
  }
  if (options.audit != nullptr) {
    const Status outcome = body.has_value() ? Status() : body.error();
    // Changes that were refused for what they ask are as cheap to the caller as any refusal.
    if (allowed && change && !outcome.ok()) told = IsTold();
    if (told && (change || outcome.code() == StatusCode::kPermissionDenied)) {
      options.audit->Write({peer.identity.get(), peer.address, request.method(), about, outcome});
    }
  }
  if (const auto found = calls_in_flight.find(peer.connection_id); found != calls_in_flight.end()) {
    --found->second;
  }
  // Closed with its server, whose owner, and with it options.leader, may be gone.
  if (stopped || connection->closed()) co_return;
  proto::Frame reply;
  reply.set_call_id(request.call_id());
  if (body.has_value()) {
    reply.set_body(std::move(*body));
  } else {
    reply.set_code(StatusCodeToProto(body.error().code()));
    reply.set_message(ErrorMessageText(body.error().message()));
  }
  if (options.leader) {
    if (const std::string leader = options.leader(); leader.size() <= kLeaderBytesMax) {
      reply.set_leader(ErrorMessageText(leader));
    }
  }
  if (const Status sent = connection->Send(reply); !sent.ok()) {
    if (IsTold()) spdlog::warn("closed the connection of {}: {}", peer.address, sent.ToString());
    connection->Close(sent);
  }
}

bool ServerState::IsTold() {
  const auto left_out = refusals.Tell(SteadyClock().Now());
  if (!left_out.has_value()) return false;
  if (*left_out == 0) return true;
  const std::string text = std::to_string(*left_out) + " more refusals and faults of peers";
  spdlog::warn("{} are not shown", text);
  if (options.audit != nullptr) {
    options.audit->Write({nullptr, "", "left out", text,
                          Status(StatusCode::kPermissionDenied, "too many to write")});
  }
  return true;
}

void ServerState::Stop() {
  if (stopped) return;
  stopped = true;
  error_code ignored;
  acceptor.close(ignored);
  for (const auto& [number, stream] : greeting) stream->Close();
  for (auto& [id, connection] : connections) {
    connection->Close(Status(StatusCode::kCancelled, "the server stops"));
  }
}

class AsioRpcServer final : public RpcServer {
 public:
  explicit AsioRpcServer(std::shared_ptr<ServerState> state) : state_(std::move(state)) {
    error_code ignored;
    address_ = EndpointText(state_->acceptor.local_endpoint(ignored));
    boost::asio::co_spawn(state_->executor, state_->Accept(), boost::asio::detached);
  }
  ~AsioRpcServer() override { state_->Stop(); }

  [[nodiscard]] std::string address() const override { return address_; }
  void Disconnect(uint64_t connection_id) override {
    const auto found = state_->connections.find(connection_id);
    if (found != state_->connections.end()) {
      found->second->Close(Status(StatusCode::kCancelled, "disconnected by the server"));
    }
  }

 private:
  const std::shared_ptr<ServerState> state_;
  std::string address_;
};

}  // namespace

Result<std::unique_ptr<RpcServer>> RpcServer::Create(boost::asio::any_io_executor executor,
                                                     const Options& options, Handler handler,
                                                     OnDisconnect on_disconnect) {
  ENGRAM_ASSIGN_OR_RETURN(tcp::acceptor acceptor, Listen(executor, options.listen_address));
  ENGRAM_TRY(CheckListening(options.security, acceptor, options.listen_address));
  // It writes a line to standard error for every text field that is no UTF-8, as peers like.
  (void)google::protobuf::SetLogHandler(nullptr);
  auto state = std::make_shared<ServerState>(std::move(executor), options, std::move(handler),
                                             std::move(on_disconnect), std::move(acceptor));
  return std::make_unique<AsioRpcServer>(std::move(state));
}

}  // namespace engram
