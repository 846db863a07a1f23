#include "engram/rpc/rpc_server.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <google/protobuf/stubs/logging.h>
#include <spdlog/spdlog.h>

#include "engram/base/log_text.h"
#include "engram/base/tell_rate.h"
#include "engram/rpc/frame_connection.h"
#include "engram/rpc/host_port.h"
#include "engram/rpc/host_share.h"
#include "engram/security/permissions.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

// Of replies that a peer does not take: then it is asked nothing more; and where calls that waited
// meanwhile are answered all the same, it is closed.
constexpr uint64_t kPauseReadingBytes = 1u << 20;
constexpr uint64_t kRepliesBytesMax = 16u << 20;
// How often certificates of open connections are looked at, beside at each call.
constexpr std::chrono::seconds kLookInterval{1};
constexpr int kLooksAtOnce = 64;  // signatures, before others have their turn
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
  awaitable<void> LookAtCertificates();
  awaitable<void> Greet(tcp::socket socket, std::string host);
  [[nodiscard]] FrameLimits LimitsOf(const RpcPeer& peer);
  awaitable<void> Serve(std::shared_ptr<FrameConnection> connection, RpcPeer peer);
  // False: its certificate would not be let in any more; the connection is closed then, and told.
  [[nodiscard]] bool StillWelcome(FrameConnection& connection, const RpcPeer& peer,
                                  std::string_view what);
  // Closes connections until frames that are coming fit coming_bytes_max.
  void BoundComingFrames();
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
  struct Open {
    std::shared_ptr<FrameConnection> connection;
    RpcPeer peer;
    std::string host;
  };
  HostQueue greeting;  // in their handshakes
  TellRate refusals{kRefusalsToldPerSecond};
  std::unordered_map<uint64_t, Open> connections;
  std::unordered_map<uint64_t, uint32_t> calls_in_flight;  // by connection
  const std::shared_ptr<HostCounts> open_by_host =         // those in handshakes too
      std::make_shared<HostCounts>();
  boost::asio::steady_timer look{executor};
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
    // Those without a certificate must not keep out those with one.
    if (greeting.size() >= options.handshakes_max) greeting.CloseOne();
    boost::asio::co_spawn(executor, Greet(std::move(socket), host), boost::asio::detached);
  }
}

bool ServerState::HasRoomFor(const std::string& host) {
  const size_t open = connections.size();
  const uint64_t count = open_by_host->of(host);
  if (IsFree(count, 1, open, options.connections_max)) return true;
  if (IsTold()) {
    spdlog::warn("closed a new connection of {}: {} of {} are open, {} of them its own", host, open,
                 options.connections_max, count);
  }
  return false;
}

awaitable<void> ServerState::Greet(tcp::socket socket, std::string host) {
  const auto self = shared_from_this();
  const HostCounts::Share counted(open_by_host, host);
  const auto stream = std::make_shared<ByteStream>(std::move(socket), options.security.identity);
  const uint64_t number = greeting.Add(host, [stream] { stream->Close(); });
  Status status = co_await stream->Handshake(ByteStream::Side::kServer, options.handshake_timeout);
  greeting.Remove(number);
  if (stopped) co_return;
  RpcPeer peer;
  if (status.ok()) {
    auto identity = stream->Peer();
    if (identity.has_value()) peer.identity = *std::move(identity);
    if (!identity.has_value()) status = identity.error();
  }
  auto connection = std::make_shared<FrameConnection>(std::move(*stream), LimitsOf(peer));
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
  connections.emplace(peer.connection_id, Open{connection, peer, std::move(host)});
  co_await Serve(std::move(connection), std::move(peer));
}

FrameLimits ServerState::LimitsOf(const RpcPeer& peer) {
  FrameLimits limits;
  limits.frame_bytes_max = options.frame_bytes_max;
  if (peer.identity != nullptr && peer.identity->role == Role::kReader) {
    limits.frame_bytes_max = std::min(limits.frame_bytes_max, kReaderFrameBytesMax);
  }
  limits.expect_first_frame = true;
  limits.frame_timeout = options.frame_timeout;
  limits.pause_reading_bytes = kPauseReadingBytes;
  limits.write_queue_bytes_max = kRepliesBytesMax;
  // The connection is read from by Serve alone, which keeps this.
  limits.on_growth = [this] { BoundComingFrames(); };
  return limits;
}

void ServerState::BoundComingFrames() {
  while (true) {
    uint64_t all = 0;
    std::unordered_map<std::string, uint64_t> by_host;
    for (const auto& [id, open] : connections) {
      if (open.connection->closed()) continue;
      all += open.connection->coming_bytes();
      by_host[open.host] += open.connection->coming_bytes();
    }
    if (all <= options.coming_bytes_max) return;
    const Open* largest = nullptr;
    const auto key = [&](const Open& open) {
      return std::pair(by_host[open.host], open.connection->coming_bytes());
    };
    for (const auto& [id, open] : connections) {
      if (open.connection->closed()) continue;
      if (largest == nullptr || key(open) > key(*largest)) largest = &open;
    }
    if (largest == nullptr) return;
    largest->connection->Close(
        Status(StatusCode::kResourceExhausted,
               "frames that have begun take " + std::to_string(all) +
                   " bytes, and this connection has most of the host with most: send whole ones"));
  }
}

bool ServerState::StillWelcome(FrameConnection& connection, const RpcPeer& peer,
                               std::string_view what) {
  const Status status = connection.CheckPeer();
  if (status.ok()) return true;
  if (IsTold()) {
    spdlog::warn("closed the connection of {}: {}", peer.address, status.message());
    if (options.audit != nullptr) {
      options.audit->Write({peer.identity.get(), peer.address, what, {}, status});
    }
  }
  connection.Close(Status(StatusCode::kCancelled, status.message()));
  return false;
}

// Calls are looked at when they come; what a connection means where nothing is called, such as a
// session of a memory node, ends here.
awaitable<void> ServerState::LookAtCertificates() {
  const auto self = shared_from_this();
  while (!stopped) {
    error_code ignored;
    look.expires_after(kLookInterval);
    co_await look.async_wait(redirect_error(use_awaitable, ignored));
    std::vector<uint64_t> ids;
    for (const auto& [id, open] : connections) ids.push_back(id);
    int looks = 0;
    for (const uint64_t id : ids) {
      if (++looks % kLooksAtOnce == 0) co_await boost::asio::post(executor, use_awaitable);
      const auto found = connections.find(id);
      if (stopped || found == connections.end()) continue;
      const Open& open = found->second;
      if (!open.connection->closed()) (void)StillWelcome(*open.connection, open.peer, "connection");
    }
  }
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
    if (!StillWelcome(*connection, peer, request->method())) break;
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
    // What the frame has beside these would be kept for as long as the handler waits.
    proto::Frame call;
    call.set_call_id(request->call_id());
    call.set_method(std::move(*request->mutable_method()));
    call.set_body(std::move(*request->mutable_body()));
    boost::asio::co_spawn(executor, Answer(connection, peer, std::move(call)),
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
  try {
    const Status may =
        peer.identity == nullptr ? Status() : CheckCall(*peer.identity, request.method());
    allowed = may.ok();
    if (allowed) {
      if (change && options.describe) about = options.describe(request.method(), request.body());
      body = co_await handler(peer, request.method(), std::move(*request.mutable_body()));
    } else {
      told = IsTold();
      if (told) {
        spdlog::warn("refused {} to {}: {}", LogText(request.method()), peer.address,
                     LogText(may.message()));
      }
      body = Error(may);
    }
  } catch (const std::exception& error) {
    spdlog::error("{} from {} threw: {}", LogText(request.method()), peer.address, error.what());
    body = Error(StatusCode::kInternal, std::string("a bug in the server: ") + error.what());
  }
  if (options.audit != nullptr) {
    const Status outcome = body.has_value() ? Status() : body.error();
    if (change || outcome.code() == StatusCode::kPermissionDenied) {
      // What the handler refused is as cheap to the caller as what it may not call.
      if (allowed && !outcome.ok()) told = IsTold();
      if (told) {
        options.audit->Write({peer.identity.get(), peer.address, request.method(), about, outcome});
      }
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
  look.cancel();
  greeting.CloseAll();
  for (auto& [id, open] : connections) {
    open.connection->Close(Status(StatusCode::kCancelled, "the server stops"));
  }
}

class AsioRpcServer final : public RpcServer {
 public:
  explicit AsioRpcServer(std::shared_ptr<ServerState> state) : state_(std::move(state)) {
    error_code ignored;
    address_ = EndpointText(state_->acceptor.local_endpoint(ignored));
    boost::asio::co_spawn(state_->executor, state_->Accept(), boost::asio::detached);
    if (state_->options.security.identity != nullptr) {
      boost::asio::co_spawn(state_->executor, state_->LookAtCertificates(), boost::asio::detached);
    }
  }
  ~AsioRpcServer() override { state_->Stop(); }

  [[nodiscard]] std::string address() const override { return address_; }
  void Disconnect(uint64_t connection_id) override {
    const auto found = state_->connections.find(connection_id);
    if (found != state_->connections.end()) {
      found->second.connection->Close(Status(StatusCode::kCancelled, "disconnected by the server"));
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
