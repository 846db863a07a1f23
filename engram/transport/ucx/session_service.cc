#include "engram/transport/ucx/session_service.h"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <spdlog/spdlog.h>

#include "engram/base/log_text.h"
#include "engram/rpc/host_port.h"
#include "engram/transport/ucx/host_identity.h"
#include "engram/transport/ucx/ucx_context.h"

namespace engram {
namespace {

// UCX addresses here are a few hundred bytes, a few thousand with many network cards.
constexpr size_t kWorkerAddressBytesMax = 64 << 10;
// Different addresses of one holder: a host has kDataHostsMax at most, and some may change.
constexpr size_t kHolderHostsMax = size_t{4} * kDataHostsMax;
// How late a session may end after its token has lapsed.
constexpr std::chrono::milliseconds kLapseCheck{250};
constexpr uint32_t kRefusalsToldPerSecond = 20;  // as RpcServer does

uint64_t RandomSessionId() {
  static std::random_device device;
  uint64_t id = 0;
  while (id == 0) id = (uint64_t{device()} << 32) | device();
  return id;
}

// An outcome that another thread gives and a coroutine awaits.
struct Outcome {
  explicit Outcome(boost::asio::io_context& io)
      : given(io, boost::asio::steady_timer::time_point::max()) {}
  boost::asio::steady_timer given;  // cancelled = there
  std::optional<Status> status;
};

}  // namespace

void ServedState::AddRegion(ExportedRegion region) {
  const std::lock_guard lock(mutex_);
  regions_.push_back(std::move(region));
}

std::vector<ExportedRegion> ServedState::regions() const {
  const std::lock_guard lock(mutex_);
  return regions_;
}

void ServedState::SetFinder(TableVersion version, std::shared_ptr<const SlotFinder> finder) {
  const std::lock_guard lock(mutex_);
  if (finder == nullptr) {
    finders_.erase(version);
  } else {
    finders_[version] = std::move(finder);
  }
}

std::shared_ptr<const SlotFinder> ServedState::finder(TableVersion version) const {
  const std::lock_guard lock(mutex_);
  const auto found = finders_.find(version);
  return found == finders_.end() ? nullptr : found->second;
}

SessionService::SessionService(boost::asio::io_context& io, const Options& options,
                               ServedState* state, std::vector<GatherThread*> threads)
    : io_(io),
      options_(options),
      state_(state),
      threads_(std::move(threads)),
      host_identity_(HostIdentity()),
      tcp_segment_(UcxTcpSegment()),
      refusals_(kRefusalsToldPerSecond) {}

Status SessionService::Listen(const RpcServer::Options& options) {
  auto server = RpcServer::Create(
      io_.get_executor(), options,
      [this](const RpcPeer& peer, std::string_view method, std::string body) {
        return Handle(peer, method, std::move(body));
      },
      [this](const RpcPeer& peer) { OnDisconnect(peer); });
  if (!server.has_value()) return server.error();
  server_ = *std::move(server);
  if (options_.token_keys != nullptr) {
    boost::asio::co_spawn(io_, EndLapsedSessions(), boost::asio::detached);
  }
  return {};
}

boost::asio::awaitable<void> SessionService::EndLapsedSessions() {
  boost::asio::steady_timer timer(io_);
  while (true) {
    boost::system::error_code ignored;
    timer.expires_after(kLapseCheck);
    co_await timer.async_wait(boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
    if (server_ == nullptr) continue;  // ends with the io_context
    std::vector<uint64_t> lapsed;
    for (const auto& [connection, session] : sessions_) {
      if (session.lapses > SteadyClock().Now()) continue;
      spdlog::info("session with {} ended: its token has lapsed", session.peer);
      lapsed.push_back(connection);
    }
    // OnDisconnect takes the session from its thread.
    for (const uint64_t connection : lapsed) server_->Disconnect(connection);
  }
}

Result<MonotonicTime> SessionService::CheckToken(const RpcPeer& peer, TableVersion version,
                                                 std::string_view token) const {
  if (options_.token_keys == nullptr) return MonotonicTime::max();
  const UnixSeconds now = UnixNow();
  ENGRAM_ASSIGN_OR_RETURN(
      const TokenClaims claims,
      options_.token_keys->Verify(token, peer.identity == nullptr ? "" : peer.identity->name,
                                  version, node_address_, now));
  // From here on by the monotonic clock. As late as the token would be taken again.
  return SteadyClock().Now() + (claims.lapses + kTokenClockSkew - now);
}

uint64_t SessionService::MillisecondsLeft(MonotonicTime lapses) {
  if (lapses == MonotonicTime::max()) return 0;
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(lapses - kTokenClockSkew - SteadyClock().Now());
  return static_cast<uint64_t>(std::max<int64_t>(1, left.count()));
}

boost::asio::awaitable<Result<std::string>> SessionService::Handle(const RpcPeer& peer,
                                                                   std::string_view method,
                                                                   std::string body) {
  if (method == "session.Open") {
    auto reply = co_await Open(peer, std::move(body));
    if (!reply.has_value()) {
      refused_.fetch_add(1, std::memory_order_relaxed);
      if (const auto left_out = refusals_.Tell(SteadyClock().Now()); left_out.has_value()) {
        if (*left_out > 0) spdlog::info("{} more refused sessions are not shown", *left_out);
        // It may quote what the reader sent.
        spdlog::info("refused a session of {}: {}", peer.address,
                     LogText(reply.error().ToString()));
      }
    }
    co_return reply;
  }
  if (method == "session.GetDirectory") co_return GetDirectory(peer, body);
  if (method == "session.Renew") co_return Renew(peer, body);
  co_return Error(StatusCode::kNotFound,
                  "a memory node's data service has no method '" + std::string(method) +
                      "': it has session.Open, session.Renew and session.GetDirectory");
}

Result<std::shared_ptr<const SlotFinder>> SessionService::CheckOpen(
    const proto::OpenSessionRequest& request) const {
  if (request.incarnation() != 0 && request.incarnation() != options_.incarnation.value()) {
    return Error(StatusCode::kWrongIncarnation,
                 "this node restarted: fetch the shard map for its new incarnation");
  }
  auto finder = state_->finder(TableVersion(request.version()));
  if (finder == nullptr) {
    return Error(StatusCode::kWrongVersion, "this node does not serve version " +
                                                std::to_string(request.version()) +
                                                ": fetch the shard map");
  }
  const ServedSlots& slots = finder->slots();
  const std::string_view identity(reinterpret_cast<const char*>(slots.identity().data()),
                                  slots.identity().size());
  if (request.model_identity() != identity) {
    return Error(StatusCode::kWrongModel,
                 "the reader's model identity differs from that of version " +
                     std::to_string(request.version()) +
                     ": it would hash to other rows; check its config.json and tokenizer.json");
  }
  const TableLayout& layout = slots.layout();
  if (request.row_stride() != layout.row_stride() || request.slot_shift() != layout.slot_shift() ||
      request.slot_count() != layout.slot_count()) {
    return Error(
        StatusCode::kWrongModel,
        "the reader's layout (stride, slot shift, slots) is " +
            std::to_string(request.row_stride()) + ", " + std::to_string(request.slot_shift()) +
            ", " + std::to_string(request.slot_count()) + ", the node's " +
            std::to_string(layout.row_stride()) + ", " + std::to_string(layout.slot_shift()) +
            ", " + std::to_string(layout.slot_count()) + ": both must run the same release");
  }
  if (request.tcp_segment() != tcp_segment_) {
    return Error(
        StatusCode::kFailedPrecondition,
        "the reader's UCX_TCP_RX_SEG_SIZE is '" + request.tcp_segment() + "', the node's '" +
            tcp_segment_ +
            "', and UCX writes past its buffers where the peer's is larger: set the same on "
            "both, or on none");
  }
  if (request.worker_address().empty() ||
      request.worker_address().size() > kWorkerAddressBytesMax) {
    return Error(StatusCode::kMalformed, "worker_address is empty or longer than 64 KiB");
  }
  return finder;
}

boost::asio::awaitable<Result<std::string>> SessionService::Open(RpcPeer peer, std::string body) {
  proto::OpenSessionRequest request;
  if (!request.ParseFromString(body)) {
    co_return Error(StatusCode::kMalformed, "the body is not an OpenSessionRequest");
  }
  // Before anything is said about what is served here.
  const auto lapses = CheckToken(peer, TableVersion(request.version()), request.token());
  if (!lapses.has_value()) co_return Error(lapses.error());
  auto finder = CheckOpen(request);
  if (!finder.has_value()) co_return Error(std::move(finder).error());
  if (sessions_.contains(peer.connection_id)) {
    co_return Error(StatusCode::kFailedPrecondition,
                    "this connection has its session: open another connection");
  }
  // Those that are over keep an endpoint for some seconds.
  size_t endpoints = sessions_.size();
  for (const GatherThread* const thread : threads_) endpoints += thread->ending_count();
  if (endpoints >= options_.sessions_max) {
    co_return Error(StatusCode::kResourceExhausted,
                    "this node has its " + std::to_string(options_.sessions_max) +
                        " sessions, those included that ended a moment ago: close some, or raise "
                        "its bound");
  }
  GatherThread* const thread = *std::min_element(
      threads_.begin(), threads_.end(),
      [](GatherThread* a, GatherThread* b) { return a->session_count() < b->session_count(); });
  Session session{RandomSessionId(),
                  TableVersion(request.version()),
                  thread,
                  peer.address,
                  HolderOf(peer),
                  {},
                  *lapses};
  if (Status status = Admit(request, &session); !status.ok()) co_return Error(std::move(status));
  // Taken before the wait, so that a connection that ends meanwhile takes the session with it.
  sessions_[peer.connection_id] = session;
  const auto outcome = std::make_shared<Outcome>(io_);
  ServedSession served;
  served.id = session.id;
  // Ids are the client's own word: none takes another's share by taking its id unless both have one
  // certificate and one host, and however many ids it takes, it is one holder.
  served.holder = session.holder;
  served.client = request.client_id();
  served.protocol = std::clamp(request.protocol(), kDataProtocolMin, kDataProtocol);
  served.version = session.version;
  served.peer_worker_address = request.worker_address();
  served.finder = [state = state_, version = session.version] { return state->finder(version); };
  thread->AddSession(std::move(served), [&io = io_, outcome](Status status) {
    boost::asio::post(io, [outcome, status = std::move(status)] {
      outcome->status = status;
      outcome->given.cancel();
    });
  });
  boost::system::error_code ignored;
  while (!outcome->status.has_value()) {
    co_await outcome->given.async_wait(
        boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
  }
  if (!outcome->status->ok()) {
    if (sessions_.erase(peer.connection_id) > 0) Expel(session);
    co_return Error(outcome->status->WithContext("serving the reader"));
  }
  proto::OpenSessionReply reply;
  reply.set_incarnation(options_.incarnation.value());
  reply.set_session(session.id);
  reply.set_protocol(std::clamp(request.protocol(), kDataProtocolMin, kDataProtocol));
  reply.set_worker_address(thread->worker_address());
  reply.set_lease_ms(static_cast<uint32_t>(options_.lease.count()));
  reply.set_host_identity(host_identity_);
  reply.set_one_sided_address(threads_.front()->one_sided_address());
  reply.set_ways_off(options_.ways_off);
  reply.set_lapses_in_ms(MillisecondsLeft(*lapses));
  for (std::string& host : DataHosts()) reply.add_data_hosts(std::move(host));
  co_return reply.SerializeAsString();
}

Status SessionService::Admit(const proto::OpenSessionRequest& request, Session* session) {
  if (request.data_hosts_size() > kDataHostsMax) {
    return {StatusCode::kMalformed, "more than " + std::to_string(kDataHostsMax) + " data_hosts"};
  }
  PortGuard& guard = session->thread->port_guard();
  const auto admit = [&](const std::string& host, PortGuard::Room room) {
    ENGRAM_RETURN_IF_ERROR(guard.Admit(host, room));
    session->hosts.push_back(host);
    auto& named = named_hosts_[session->holder];
    ++named[host];
    // Each is let in: somebody could have all the room there is, or open the ports to anybody.
    if (named.size() <= kHolderHostsMax) return Status();
    return Status(StatusCode::kResourceExhausted,
                  "the sessions of this certificate and host have named " +
                      std::to_string(kHolderHostsMax) +
                      " addresses that their data may come from: close some");
  };
  Status status;
  // The one that it does come from has room in any case.
  if (const auto peer = ParseHostPort(session->peer); peer.has_value()) {
    status = admit(peer->host, PortGuard::Room::kAlways);
  }
  for (int i = 0; i < request.data_hosts_size() && status.ok(); ++i) {
    status = admit(request.data_hosts(i), PortGuard::Room::kIfFree);
  }
  if (!status.ok()) Expel(*session);
  return status;
}

void SessionService::Expel(const Session& session) {
  const auto named = named_hosts_.find(session.holder);
  for (const std::string& host : session.hosts) {
    session.thread->port_guard().Expel(host);
    if (const auto found = named->second.find(host); --found->second == 0) {
      named->second.erase(found);
    }
  }
  if (named != named_hosts_.end() && named->second.empty()) named_hosts_.erase(named);
}

std::string SessionService::HolderOf(const RpcPeer& peer) {
  const auto address = ParseHostPort(peer.address);
  return (peer.identity == nullptr ? "" : peer.identity->name) + "@" +
         (address.has_value() ? address->host : peer.address);
}

Result<SessionService::Session*> SessionService::FindSession(const RpcPeer& peer, uint64_t id) {
  const auto found = sessions_.find(peer.connection_id);
  if (found != sessions_.end() && found->second.id == id) return &found->second;
  return Error(StatusCode::kNotFound, "this connection has no such session: session.Open first");
}

Result<std::string> SessionService::Renew(const RpcPeer& peer, const std::string& body) {
  proto::RenewSessionRequest request;
  if (!request.ParseFromString(body)) {
    return Error(StatusCode::kMalformed, "the body is not a RenewSessionRequest");
  }
  ENGRAM_ASSIGN_OR_RETURN(Session* const session, FindSession(peer, request.session()));
  ENGRAM_ASSIGN_OR_RETURN(const MonotonicTime lapses,
                          CheckToken(peer, session->version, request.token()));
  // An older token takes nothing from a session.
  session->lapses = std::max(session->lapses, lapses);
  proto::RenewSessionReply reply;
  reply.set_lapses_in_ms(MillisecondsLeft(session->lapses));
  return reply.SerializeAsString();
}

Result<std::string> SessionService::GetDirectory(const RpcPeer& peer, const std::string& body) {
  proto::GetDirectoryRequest request;
  if (!request.ParseFromString(body)) {
    return Error(StatusCode::kMalformed, "the body is not a GetDirectoryRequest");
  }
  ENGRAM_ASSIGN_OR_RETURN(Session* const session, FindSession(peer, request.session()));
  const auto finder = state_->finder(session->version);
  if (finder == nullptr) return Error(StatusCode::kWrongVersion, "the version was dropped");
  const ServedSlots& slots = finder->slots();
  proto::GetDirectoryReply reply;
  // Read first: a slot that changes during the listing makes the listing out of date, not wrong.
  reply.set_generation(slots.generation());
  for (const ExportedRegion& region : state_->regions()) {
    reply.add_region_keys(region.key);
    reply.add_one_sided_keys(region.one_sided_key);
    reply.add_region_addresses(region.address);
    reply.add_region_bytes(region.bytes);
  }
  for (uint32_t s = 0; s < slots.layout().slot_count(); ++s) {
    const SlotIndex slot(s);
    if (slots.Rows(slot) == nullptr) continue;
    const SlotPlace place = slots.Place(slot);
    reply.add_slots(s);
    reply.add_slot_regions(place.region);
    reply.add_slot_offsets(place.offset);
    reply.add_slot_row_counts(slots.layout().slot(slot).row_count);
  }
  return reply.SerializeAsString();
}

void SessionService::OnDisconnect(const RpcPeer& peer) {
  const auto found = sessions_.find(peer.connection_id);
  if (found == sessions_.end()) return;
  found->second.thread->RemoveSession(found->second.id);
  Expel(found->second);
  sessions_.erase(found);
}

void SessionService::EndSession(uint64_t session, const Status& why) {
  boost::asio::post(io_, [this, session, why] {
    if (server_ == nullptr) return;
    for (const auto& [connection, open] : sessions_) {
      if (open.id != session) continue;
      spdlog::info("session with {} ended: {}", open.peer, why.ToString());
      server_->Disconnect(connection);
      return;
    }
  });
}

}  // namespace engram
