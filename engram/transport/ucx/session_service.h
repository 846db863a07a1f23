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

#include "engram/rpc/rpc_server.h"
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
  };
  SessionService(boost::asio::io_context& io, const Options& options, ServedState* state,
                 std::vector<GatherThread*> threads);

  [[nodiscard]] Status Listen(const RpcServer::Options& options);
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
  };

  boost::asio::awaitable<Result<std::string>> Handle(const RpcPeer& peer, std::string_view method,
                                                     std::string body);
  boost::asio::awaitable<Result<std::string>> Open(RpcPeer peer, std::string body);
  Result<std::string> GetDirectory(const RpcPeer& peer, const std::string& body);
  [[nodiscard]] Result<std::shared_ptr<const SlotFinder>> CheckOpen(
      const proto::OpenSessionRequest& request) const;
  void OnDisconnect(const RpcPeer& peer);

  boost::asio::io_context& io_;
  const Options options_;
  ServedState* const state_;
  const std::vector<GatherThread*> threads_;
  const std::string host_identity_;
  const std::string tcp_segment_;
  std::map<uint64_t, Session> sessions_;  // by connection id
  std::atomic<uint64_t> refused_{0};
  std::unique_ptr<RpcServer> server_;
};

}  // namespace engram
