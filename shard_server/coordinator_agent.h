// The memory node's conversation with the coordinator (proto/node.proto).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <string>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/rpc/coordinator_choice.h"
#include "engram/rpc/rpc_client.h"
#include "engram/security/session_token.h"
#include "proto/node.pb.h"
#include "shard_server/memory_node.h"

namespace engram {

struct AgentFigures {
  bool registered = false;  // once at least since start
  bool connected = false;   // the last heartbeat was answered
  uint64_t term = 0;        // the highest seen
  uint64_t heartbeats_answered = 0;
  uint64_t connections_lost = 0;
  uint64_t replies_refused = 0;  // of a lower term, or malformed
  Status last_error;             // of the conversation; OK once a heartbeat is answered
};

// Of several coordinators one leads: a follower names it, and the agent goes there at once; one
// that does not answer makes it try the next.
//
// Registers, heartbeats, applies assignments; a coordinator that is down changes nothing here: the
// node serves what it holds, and the agent connects again, after a bounded, growing, random wait.
//
// One heartbeat is in flight at a time. The coordinator holds it back until an assignment differs
// from those told, up to its interval (a short time while slots are being loaded, so that ready
// slots are told soon). Replies of a term lower than the highest seen are ignored.
//
// Runs on the executor given (a strand, or an io_context with one thread); hands assignments to the
// node on the node's own executor.
class CoordinatorAgent {
 public:
  struct Options {
    std::string coordinator_address;     // "host:port", or several with commas between
    proto::NodeDescription description;  // id, incarnation, zone, addresses, capacity
    ChannelSecurity security;
    std::shared_ptr<TokenKeys>
        token_keys;  // gets what the coordinator tells; null: development mode
    std::chrono::milliseconds backoff_min{100};
    std::chrono::milliseconds backoff_max{5000};
    std::chrono::milliseconds call_timeout{5000};     // beyond what the coordinator may hold back
    std::chrono::milliseconds loading_interval{250};  // between heartbeats while slots are loaded
  };
  // `node` must outlive the agent.
  CoordinatorAgent(boost::asio::any_io_executor executor, MemoryNode* node, Options options);

  // Starts the conversation. Once.
  void Start();
  // Ends it soon; its coroutine is gone when the executor has nothing more to do.
  void Stop();

  [[nodiscard]] const AgentFigures& figures() const { return figures_; }
  // Version -> revision of the last assignment that came; 0: it is about to come again.
  [[nodiscard]] const std::map<uint64_t, uint64_t>& known_revisions() const {
    return known_revisions_;
  }

 private:
  [[nodiscard]] boost::asio::awaitable<void> Run();
  // Until the connection or the coordinator fails.
  [[nodiscard]] boost::asio::awaitable<Status> Converse();
  [[nodiscard]] boost::asio::awaitable<Status> Register();
  [[nodiscard]] boost::asio::awaitable<Status> Heartbeat();
  [[nodiscard]] boost::asio::awaitable<void> Sleep(std::chrono::milliseconds time);

  // Slots may become ready any moment: tell of them soon.
  [[nodiscard]] bool Busy(const NodeSnapshot& snapshot) const;
  [[nodiscard]] proto::HeartbeatRequest MakeHeartbeat(const NodeSnapshot& snapshot) const;
  // False when `term` is lower than one seen.
  [[nodiscard]] bool TakeTerm(uint64_t term);
  void TakeReply(const proto::HeartbeatReply& reply);
  void TakeTokenKeys(const google::protobuf::RepeatedPtrField<proto::TokenKey>& told);
  void Tell(const Status& error);

  boost::asio::any_io_executor executor_;
  MemoryNode* node_;
  Options options_;
  boost::asio::steady_timer timer_;
  CoordinatorChoice choice_;
  std::shared_ptr<RpcClient> client_;  // null while not connected
  std::mt19937_64 random_;
  bool stopped_ = false;
  bool must_register_ = true;
  std::chrono::milliseconds interval_{1000};
  uint32_t failures_ = 0;  // in a row
  AgentFigures figures_;
  std::map<uint64_t, uint64_t> known_revisions_;
  std::map<uint64_t, uint64_t> told_changes_;  // version -> HeldVersion::change answered for
  std::map<uint64_t, Status> refused_;         // version -> why its assignment was refused
  MonotonicTime busy_until_;                   // an assignment was just handed to the node
};

}  // namespace engram
