// The shell around ClusterState: carries events in from the network and effects out, in this order:
// durable first, visible after. Leads where the store says so; else follows.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "coordinator/cluster_state.h"
#include "coordinator/coordinator_metrics.h"
#include "coordinator/held_calls.h"
#include "coordinator/metadata_store.h"
#include "engram/base/status.h"
#include "engram/http/http_server.h"
#include "engram/http/service_pages.h"
#include "engram/rpc/rpc_server.h"
#include "engram/security/session_token.h"
#include "proto/directory.pb.h"
#include "proto/node.pb.h"

namespace engram {

// Where it leads, it answers everything. Where it follows, it answers directory.GetShardMap and
// admin.GetStatus from what the leader wrote, which may be old and is never ahead, and refuses
// everything else as kUnavailable; leader() says who leads. When its term ends it forgets what it
// has in memory and follows.
//
// Everything runs on the executor given (a strand or a single-threaded io_context), which owns all
// state here; only checkpoints are read on a thread of its own.
class CoordinatorService {
 public:
  struct Options {
    ClusterState::Options cluster;
    uint32_t wait_ms_max = 30'000;  // a held call is answered by then
    HeldCalls::Options held;
    // A leader whose host vanished keeps its nodes waiting for as long as their calls may take: the
    // next one counts nodes as up for so much longer before it calls one down.
    std::chrono::milliseconds takeover_grace{6000};
    // A follower that could not look at the store for this long sends clients that have a map
    // elsewhere; those that have none get its old one.
    std::chrono::milliseconds stale_after{10'000};
    // Of the session tokens that readers get; 0 = development mode, where nobody needs one. While
    // no coordinator leads none are given: reads of a cluster without one end after so long.
    std::chrono::seconds token_lifetime{0};
    std::vector<CertificateInUse> certificates;  // whose end /metrics tells
  };
  // Called when a store that is not shared fails (what is in memory may run ahead of what is
  // durable), or when what is stored is damaged: the process must end.
  using OnFatal = std::function<void(const Status&)>;

  // `executor` outlives the service.
  CoordinatorService(boost::asio::any_io_executor executor, std::unique_ptr<MetadataStore> store,
                     const Options& options, OnFatal on_fatal);
  ~CoordinatorService();

  // Stands for election. Once. With a store that is not shared it leads when this returns.
  //   address  "host:port" where others reach this process
  // ERRORS: those of the store, kCorrupt.
  [[nodiscard]] Status Start(std::string address);
  // "host:port" of who leads, while this one follows and knows it; else empty.
  [[nodiscard]] std::string leader() const;

  // What a change is about, for the audit log: the node or version that the body names.
  [[nodiscard]] static std::string Describe(std::string_view method, const std::string& body);
  // The methods of node.proto, directory.proto and admin.proto. ERRORS: kNotFound for another
  // method, kMalformed for a body that is not the method's message.
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> Handle(const RpcPeer& peer,
                                                                   std::string_view method,
                                                                   std::string body);
  // Starts the clock that finds lost nodes.
  void StartTicking();
  // Ends held calls and the clock.
  void Stop();

  [[nodiscard]] const HeldCalls& held() const { return *held_; }

  // /healthz, /readyz, /metrics and /status (JSON).
  [[nodiscard]] HttpServer::Handler Pages();

 private:
  // Leads, follows or steps down, as the store says now. ERRORS: those of Lead.
  Status TakeRole();
  // Reads the state back and publishes it under `term`. ERRORS: those of the store, kCorrupt; it
  // does not lead then.
  [[nodiscard]] Status Lead(uint64_t term);
  void Follow(const std::shared_ptr<const std::vector<MetadataRecord>>& records);
  // Forgets what is in memory, which nobody may see any more.
  void StepDown();
  // ok, or what a caller is told who must ask the leader.
  [[nodiscard]] Status CheckLeads() const;
  // known_epoch: of the map that the caller has; 0 = none.
  [[nodiscard]] Status CheckCanRead(uint64_t known_epoch) const;
  [[nodiscard]] proto::GetStatusReply ClusterStatus() const;
  [[nodiscard]] Readiness RoleReadiness() const;

  // Steps, persists, then wakes. The event's status, or why it could not be persisted.
  [[nodiscard]] Status Apply(const ClusterEvent& event);
  [[nodiscard]] Status Settle(const ClusterEffects& effects);
  [[nodiscard]] boost::asio::awaitable<void> Tick();
  [[nodiscard]] bool IsOver(MonotonicTime until) const {
    return stopped_ || SteadyClock().Now() >= until;
  }

  // `peer` outlives the call, whose body is gone before it is held.
  [[nodiscard]] Result<std::string> Register(const PeerIdentity* peer, const std::string& body);
  struct HeartbeatQuestion;
  [[nodiscard]] Result<HeartbeatQuestion> TakeHeartbeat(const PeerIdentity* peer, std::string body);
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> Heartbeat(const RpcPeer& peer,
                                                                      std::string body);
  // map_calls.cc
  struct MapQuestion;
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> GetShardMap(const RpcPeer& peer,
                                                                        std::string body);
  [[nodiscard]] Result<MapQuestion> ReadMapQuestion(std::string body) const;
  // None: nothing to tell yet.
  [[nodiscard]] std::optional<Result<std::string>> AnswerMap(const MapQuestion& question);
  // The serialized reply but for what changes without the map's epoch.
  [[nodiscard]] const std::string& MapBytes(TableVersion version,
                                            const std::shared_ptr<const ShardMap>& map);
  [[nodiscard]] Result<std::string> ReportSlot(const RpcPeer& peer, const std::string& body);
  // token_calls.cc
  void RotateTokenKeys();
  [[nodiscard]] Result<std::string> GetTokens(const PeerIdentity* peer, const std::string& body);
  // Those that the node does not know yet. True: it is the first time that it hears of one.
  bool TellTokenKeys(const std::string& node,
                     const google::protobuf::RepeatedField<uint64_t>& known,
                     google::protobuf::RepeatedPtrField<proto::TokenKey>* told);
  // Of the nodes that are up, those that were not told of keys that are good until then.
  [[nodiscard]] std::set<std::string_view> UntoldAddresses(const ShardMap* map,
                                                           UnixSeconds key_good_until) const;
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> CreateVersion(std::string body);
  // Its checkpoint was read.
  [[nodiscard]] Result<std::string> MakeVersion(const VersionRequested& event);
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> GetStatus(std::string body);
  // admin_calls.cc
  struct EventsQuestion;
  [[nodiscard]] Result<EventsQuestion> ReadEventsQuestion(std::string body) const;
  [[nodiscard]] boost::asio::awaitable<Result<std::string>> GetEvents(const RpcPeer& peer,
                                                                      std::string body);
  [[nodiscard]] static bool IsAdminCall(std::string_view method);
  [[nodiscard]] Result<std::string> Change(const std::string& method, const std::string& body);
  void KeepNotes(const std::vector<std::string>& notes);

  const boost::asio::any_io_executor executor_;
  const std::unique_ptr<MetadataStore> store_;
  const Options options_;
  const OnFatal on_fatal_;
  std::string address_;                  // this process's
  uint64_t term_ = 0;                    // that it leads; 0 = it follows
  std::unique_ptr<ClusterState> state_;  // null while it follows and nothing is read yet
  std::shared_ptr<const std::vector<MetadataRecord>> followed_;  // what `state_` was made of
  // Gone with the service: what the election's thread posts may come later.
  const std::shared_ptr<CoordinatorService*> alive_;
  const std::shared_ptr<HeldCalls> held_;
  boost::asio::steady_timer tick_;
  boost::asio::thread_pool checkpoint_readers_{1};
  bool stopped_ = false;
  struct KeptBytes {
    std::shared_ptr<const ShardMap> map;
    std::string bytes;
  };
  std::map<TableVersion, KeptBytes> map_bytes_;  // made once for all who wait
  std::deque<proto::ClusterNote> notes_;         // of this term, the newest kNotesMax
  uint64_t last_note_ = 0;
  TokenKeys token_keys_;
  UnixSeconds token_keys_good_until_{};  // of the newest
  // In this term, by node: good_until of the newest key that it was told or has.
  std::map<std::string, UnixSeconds> token_keys_told_;

  const std::shared_ptr<CoordinatorMetrics> metrics_ =
      std::make_shared<CoordinatorMetrics>([this] { return ClusterStatus(); }, held_);
};

}  // namespace engram
