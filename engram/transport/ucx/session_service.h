// The control conversation of a memory node: opens and ends data sessions (proto/session.proto).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include "engram/base/clock.h"
#include "engram/base/tell_rate.h"
#include "engram/rpc/rpc_server.h"
#include "engram/security/session_token.h"
#include "engram/transport/ucx/gather_thread.h"
#include "proto/session.pb.h"

namespace engram {

// A region as its readers are told.
struct ExportedRegion {
  uint64_t address = 0;
  uint64_t bytes = 0;
  std::string key;            // for mapping; empty = not with this key
  std::string one_sided_key;  // for one-sided reads, and mapping; empty = off
};

// What the node serves, shared by its owner's threads and the control thread. Thread-safe.
class ServedState {
 public:
  void AddRegion(ExportedRegion region);
  [[nodiscard]] std::vector<ExportedRegion> regions() const;
  void SetFinder(TableVersion version, std::shared_ptr<const SlotFinder> finder);  // null = drop
  [[nodiscard]] std::shared_ptr<const SlotFinder> finder(TableVersion version) const;

 private:
  mutable std::mutex mutex_;
  std::vector<ExportedRegion> regions_;
  std::map<TableVersion, std::shared_ptr<const SlotFinder>> finders_;
};

// Runs on the control thread's io_context only, except EndSession and refused().
class SessionService {
 public:
  struct Options {
    Incarnation incarnation;
    std::chrono::milliseconds lease{};
    uint32_t sessions_max = 0;
    std::string ways_off;
    // Null: development mode, no token is needed.
    std::shared_ptr<const TokenKeys> token_keys;
  };
  SessionService(boost::asio::io_context& io, const Options& options, ServedState* state,
                 std::vector<GatherThread*> threads);

  [[nodiscard]] Status Listen(const RpcServer::Options& options);
  // The address in tokens for this node. Before the control thread runs.
  void SetNodeAddress(std::string address) { node_address_ = std::move(address); }
  [[nodiscard]] std::string address() const { return server_->address(); }
  // Ends every connection. On the control thread, or when it no longer runs.
  void Stop() { server_.reset(); }

  // A gather thread gave the session up. Thread-safe.
  void EndSession(uint64_t session, const Status& why);
  [[nodiscard]] uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  struct Session {
    uint64_t id = 0;
    TableVersion version;
    GatherThread* thread = nullptr;
    std::string peer;
    std::string holder;                   // HolderOf
    std::vector<std::string> hosts = {};  // that the thread's ports are open to for it
    MonotonicTime lapses = MonotonicTime::max();
  };

  boost::asio::awaitable<Result<std::string>> Handle(const RpcPeer& peer, std::string_view method,
                                                     std::string body);
  boost::asio::awaitable<Result<std::string>> Open(RpcPeer peer, std::string body);
  Result<std::string> GetDirectory(const RpcPeer& peer, const std::string& body);
  // The connection's own. ERRORS: kNotFound.
  [[nodiscard]] Result<Session*> FindSession(const RpcPeer& peer, uint64_t id);
  Result<std::string> Renew(const RpcPeer& peer, const std::string& body);
  // Until when the token is good here. ERRORS: those of TokenKeys::Verify.
  [[nodiscard]] Result<MonotonicTime> CheckToken(const RpcPeer& peer, TableVersion version,
                                                 std::string_view token) const;
  [[nodiscard]] static uint64_t MillisecondsLeft(MonotonicTime lapses);
  [[nodiscard]] boost::asio::awaitable<void> EndLapsedSessions();
  [[nodiscard]] Result<std::shared_ptr<const SlotFinder>> CheckOpen(
      const proto::OpenSessionRequest& request) const;
  // Whose session it is, in words that the peer did not choose: its certificate's name and its
  // host.
  [[nodiscard]] static std::string HolderOf(const RpcPeer& peer);
  // Lets the reader's hosts connect to its thread's ports, until Expel.
  [[nodiscard]] Status Admit(const proto::OpenSessionRequest& request, Session* session);
  void Expel(const Session& session);
  void OnDisconnect(const RpcPeer& peer);

  boost::asio::io_context& io_;
  const Options options_;
  ServedState* const state_;
  const std::vector<GatherThread*> threads_;
  std::string node_address_;
  const std::string host_identity_;
  const std::string tcp_segment_;
  std::map<uint64_t, Session> sessions_;  // by connection id
  // The addresses that each holder's sessions have named, and how often.
  std::map<std::string, std::map<std::string, uint32_t>> named_hosts_;
  std::atomic<uint64_t> refused_{0};
  TellRate refusals_;  // in the log
  std::unique_ptr<RpcServer> server_;
};

}  // namespace engram
