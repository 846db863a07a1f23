// A coordinator process: the production cluster state, and what its shell does: campaigns, keeps
// what it decided before anybody sees it, follows while another leads.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/cluster_state.h"
#include "engram/base/status.h"
#include "proto/directory.pb.h"
#include "proto/node.pb.h"
#include "tests/sim/planted_bug.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/world.h"

namespace engram::sim {

template <typename Message>
using Reply = std::function<void(Result<Message>)>;

class SimCoordinator {
 public:
  SimCoordinator(World* world, Network* network, SimStore* store,
                 const ClusterState::Options& options, const std::string& name, PlantedBug bug);

  void Start();
  void Kill();
  [[nodiscard]] Process* process() { return &process_; }
  // Null unless it leads.
  [[nodiscard]] const ClusterState* leading() const { return term_ != 0 ? state_.get() : nullptr; }

  // -- calls; on this process. Replies are called once, unless the process dies.
  void Register(const proto::RegisterNodeRequest& request,
                const Reply<proto::RegisterNodeReply>& reply);
  void Heartbeat(const proto::HeartbeatRequest& request, const Reply<proto::HeartbeatReply>& reply);
  void GetShardMap(const proto::GetShardMapRequest& request,
                   const Reply<proto::GetShardMapReply>& reply);
  void Change(const ClusterEvent& event, const Reply<TableVersion>& reply);
  // Whom to ask instead; empty: this one, or nobody knows.
  [[nodiscard]] std::string leader() const;

  // Every map that was given to anybody, by version and epoch: one epoch, one map.
  using MapBook = std::map<std::pair<uint64_t, uint64_t>, std::string>;
  void set_map_book(MapBook* book) { map_book_ = book; }

 private:
  [[nodiscard]] bool Leads() const { return term_ != 0 && world_->Now() < lease_end_; }
  void Tick();
  void Campaign();
  void OnElection(MonotonicTime sent, const SimStore::Election& election,
                  const SimStore::Contents& contents);
  void Lead(uint64_t term, const std::vector<MetadataRecord>& records);
  void Follow(const SimStore::Contents& contents);
  void StepDown();
  // Steps, keeps the effects, then `done`. One after the other: the real one blocks meanwhile.
  void Apply(ClusterEvent event, std::function<void(Status, const ClusterEffects&)> done);
  void Commit(std::vector<MetadataRecord> records, std::function<void(Status)> done);
  void WhenIdle(Action what);
  void Idle();

  World* world_;
  Network* network_;
  SimStore* store_;
  const ClusterState::Options options_;
  const PlantedBug bug_;
  Process process_;
  Connection store_link_;
  MapBook* map_book_ = nullptr;

  std::unique_ptr<ClusterState> state_;
  uint64_t term_ = 0;   // that it leads in
  uint64_t voted_ = 0;  // that the store gave it last
  MonotonicTime lease_end_;
  std::string leader_;  // another
  uint64_t followed_revision_ = ~uint64_t{0};
  MonotonicTime followed_at_;
  bool busy_ = false;  // waits for the store
  std::deque<Action> waiting_;
};

}  // namespace engram::sim
