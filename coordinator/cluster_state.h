// What the coordinator knows and decides. Pure and deterministic: events and their time come in,
// effects go out; the same events give the same state. No I/O, no clock, no randomness, no logging.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "coordinator/cluster_event.h"
#include "coordinator/placement.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/shard_map.h"
#include "engram/table/table_layout.h"
#include "proto/admin.pb.h"
#include "proto/node.pb.h"

namespace engram {

// Thread-compatible.
class ClusterState {
 public:
  struct Options {
    std::chrono::milliseconds heartbeat_interval{1000};
    // A node that was not heard of for this long is down: clients are told, its slots stay its own.
    std::chrono::milliseconds down_after{3000};
    // A node that was down for this long is lost: its slots are placed anew.
    std::chrono::milliseconds lost_after{60'000};
    // Slots that one node is told to copy at a time; as many again where they are repairs. Enough
    // for a second and more: each time the node is told, it opens sessions to every source.
    uint32_t incoming_slots_max = 512;
    uint64_t copy_bytes_per_s_max = 256ull << 20;  // into one node; 0 = no bound
  };
  ClusterState(const Options& options, uint64_t term) : options_(options), term_(term) {}

  // Takes back what was persisted. Nodes count as up until `down_after` from now; what they hold is
  // not known until they tell. Every map goes out at a new epoch, since what it says of the nodes
  // may differ. Moves go on from where they were. Call once, first. ERRORS: kCorrupt naming the
  // record.
  [[nodiscard]] Result<ClusterEffects> Restore(const std::vector<MetadataRecord>& records,
                                               MonotonicTime now);

  // The same without becoming the one who leads: every map is the one that was published, at its
  // epoch, and nothing is to be persisted. For answering questions only: no Step. What nodes hold
  // is not known. Call once, first. ERRORS: kCorrupt naming the record.
  [[nodiscard]] Status RestoreToRead(const std::vector<MetadataRecord>& records, MonotonicTime now);

  [[nodiscard]] ClusterEffects Step(const ClusterEvent& event, MonotonicTime now);

  [[nodiscard]] uint64_t term() const { return term_; }
  [[nodiscard]] const Options& options() const { return options_; }

  // -- questions
  // The current version, or, while there is none, the newest that will be; 0 = no version at all.
  [[nodiscard]] TableVersion DefaultVersion() const;
  [[nodiscard]] TableVersion current() const { return current_; }
  [[nodiscard]] TableVersion previous() const { return previous_; }
  // Null when there is no such version. Changes only with its epoch.
  [[nodiscard]] std::shared_ptr<const ShardMap> Map(TableVersion version) const;
  [[nodiscard]] const TableSpec* Spec(TableVersion version) const;
  [[nodiscard]] const ModelIdentity* Identity(TableVersion version) const;
  // Every slot has a ready replica.
  [[nodiscard]] bool Ready(TableVersion version) const;
  // It was so once.
  [[nodiscard]] bool WasReady(TableVersion version) const;
  // The assignments of a node that differ from the revisions it knows, and versions to drop.
  [[nodiscard]] proto::HeartbeatReply Changes(const proto::HeartbeatRequest& request) const;
  [[nodiscard]] proto::GetStatusReply ClusterStatus(MonotonicTime now) const;
  // What would move. ERRORS: kNotFound naming a node that is not known.
  [[nodiscard]] Result<proto::GetPlanReply> Preview(const proto::GetPlanRequest& request) const;

 private:
  struct Node {
    proto::NodeDescription description;
    bool draining = false;
    bool up = false;
    bool lost = false;
    MonotonicTime heard_of;
    // As the last heartbeat told.
    uint64_t corrupt_rows_found = 0;
    uint64_t rows_repaired = 0;
    uint64_t copy_bytes_per_s = 0;
    uint64_t releasing_bytes = 0;
  };
  // One node's part of one version. Volatile: what it holds the node tells again.
  struct Holding {
    uint64_t revision = 0;        // of the assignment that it should have; 0 = it has none
    std::set<uint32_t> incoming;  // slots that it copies now: not its own yet
    std::set<uint32_t> damaged;   // slots that it is told to repair
    std::map<uint32_t, MonotonicTime> reported;  // when a reader's report of a slot was taken
    uint64_t ready_slots = 0;
    uint64_t bytes_loaded = 0;
    Status error;
  };
  struct Version {
    TableSpec spec;
    ModelIdentity identity{};
    std::string checkpoint_path;
    std::shared_ptr<const TableLayout> layout;
    bool make_current = false;
    bool was_ready = false;
    std::vector<std::string> node_ids;    // [NodeIndex]; grows only
    std::vector<uint64_t> digests;        // [slots]; 0 = not recorded yet
    std::shared_ptr<const ShardMap> map;  // its owners are what clients are told
    std::vector<NodeIndex> target;        // [slots][replicas] what the plan wants them to become
    uint32_t wanted_replicas = 1;         // 1..replica_count; the other columns are missing
    std::vector<uint8_t> ready;           // [slots][replicas]
    std::vector<uint8_t> ready_replicas;  // [slots]
    uint32_t slots_ready = 0;             // with at least one ready replica
    std::vector<Holding> holdings;        // [NodeIndex]
    uint64_t damaged_slot_reports = 0;
    uint64_t move_bytes_done = 0;  // in this term
    std::string plan_problem;      // why the last plan could not be made
  };
  // Which to copy first.
  enum class Rank : uint8_t { kNoReplica, kRepair, kBalance };

  void On(const NodeRegistered& event, MonotonicTime now, ClusterEffects* effects);
  void On(const NodeHeartbeat& event, MonotonicTime now, ClusterEffects* effects);
  void On(const NodeDrained& event, MonotonicTime now, ClusterEffects* effects);
  void On(const NodeRemoved& event, MonotonicTime now, ClusterEffects* effects);
  void On(const VersionRequested& event, MonotonicTime now, ClusterEffects* effects);
  void On(const VersionSwitched& event, MonotonicTime now, ClusterEffects* effects);
  void On(const VersionDropped& event, MonotonicTime now, ClusterEffects* effects);
  void On(const SlotReported& event, MonotonicTime now, ClusterEffects* effects);
  void On(const TimePassed& event, MonotonicTime now, ClusterEffects* effects);

  // Whether another report of this reader is taken; it is counted then.
  [[nodiscard]] Status CountReport(const std::string& reader, MonotonicTime now);
  void NoteFigures(Node& node, const proto::HeartbeatRequest& message);
  void ForgetHoldings(const std::string& node_id);
  static void ForgetReady(Version& version, NodeIndex node);

  // cluster_moves.cc: what nodes hold, what they should, and the way from one to the other.
  void TakeHeld(Node& node, const proto::HeldVersion& held, ClusterEffects* effects);
  void TakeReadySlots(TableVersion number, Version& version, NodeIndex node,
                      const proto::HeldVersion& held, ClusterEffects* effects);
  void TakeDamaged(TableVersion number, Version& version, NodeIndex node,
                   const proto::HeldVersion& held, ClusterEffects* effects);
  // True when the digest is the slot's, or the first.
  [[nodiscard]] bool TakeDigest(Version& version, NodeIndex node, uint32_t slot, uint64_t digest,
                                std::set<uint32_t>* changed_chunks, ClusterEffects* effects);
  static void MarkReady(Version& version, size_t place);
  static void MarkNotReady(Version& version, size_t place);
  // `node` has the slot: where the plan wants it, it becomes an owner in `owners`.
  [[nodiscard]] static bool TakeOver(Version& version, std::vector<NodeIndex>* owners,
                                     NodeIndex node, uint32_t slot);
  void BecomeReadyIfComplete(TableVersion number, ClusterEffects* effects);
  // Plans every version anew from what its owners are, and starts what the plan wants.
  void Replan(ClusterEffects* effects);
  void ReplanVersion(TableVersion number, Version& version, ClusterEffects* effects);
  // Nodes [NodeIndex] as the planner sees them; knows nodes that the version does not have yet.
  [[nodiscard]] std::vector<PlacementNode> PlacementNodes(TableVersion number,
                                                          const Version& version) const;

  // cluster_replicas.cc
  // The target if each slot is to have `wanted` replicas. ERRORS: PlanOwners.
  [[nodiscard]] static Result<std::vector<NodeIndex>> PlanWith(
      uint32_t wanted, const Version& version, const std::vector<PlacementNode>& nodes);
  [[nodiscard]] static uint64_t MinimumBytesOf(const Version& version,
                                               const std::vector<PlacementNode>& nodes);
  // Fewer than wanted, or on lost nodes.
  [[nodiscard]] uint32_t ReplicasMissing(const Version& version) const;
  // Wants as many replicas as there is memory for.
  void RaiseReplicas(TableVersion number, Version& version, ClusterEffects* effects);
  [[nodiscard]] bool CanGiveUpReplica(TableVersion number) const;
  [[nodiscard]] std::vector<NodeIndex> OwnersToKeep(const Version& version, uint32_t wanted) const;
  // From now on each slot has `wanted` replicas; the others leave.
  void GiveUpReplicas(TableVersion number, Version& version, uint32_t wanted,
                      ClusterEffects* effects);
  struct FirstLayout {
    uint32_t wanted_replicas = 0;
    std::vector<NodeIndex> owners;  // [slots][replicas]
  };
  // Of a version that is to be made, on its node_ids: with as many replicas as there is memory for.
  // ERRORS: PlanOwners, of the fewest.
  [[nodiscard]] Result<FirstLayout> PlaceNew(const TableLayout& layout, uint32_t replicas,
                                             uint32_t fewest, const Version& version) const;

  // Tells nodes which slots to copy next.
  void ScheduleMoves(Version& version);
  void ScheduleNode(Version& version, NodeIndex node, const std::vector<uint32_t>& wanted);
  [[nodiscard]] Rank RankOf(const Version& version, uint32_t slot) const;
  [[nodiscard]] bool IsUp(const Version& version, NodeIndex node) const;
  [[nodiscard]] bool IsLost(const Version& version, NodeIndex node) const;
  void NewRevision(Holding& holding);
  [[nodiscard]] proto::SlotAssignment Assignment(TableVersion number, const Version& version,
                                                 NodeIndex node) const;

  // The map with today's nodes, at the next epoch, persisted.
  void PublishMap(TableVersion number, ClusterEffects* effects);
  void PublishMapsOf(const std::string& node_id, ClusterEffects* effects);
  [[nodiscard]] std::vector<ShardMapNode> MapNodes(const Version& version) const;
  // By node: bytes of slots that it owns, or that the plan wants it to; of all versions but
  // `except`.
  [[nodiscard]] std::map<std::string, uint64_t> UsedBytes(TableVersion except) const;
  [[nodiscard]] bool OwnsAny(const std::string& node_id) const;
  [[nodiscard]] static NodeIndex IndexOf(const Version& version, const std::string& node_id);
  void ShapeVersion(Version& version, uint32_t replica_count) const;

  // cluster_status.cc
  [[nodiscard]] proto::NodeStatus StatusOf(const std::string& id, const Node& node,
                                           MonotonicTime now) const;
  [[nodiscard]] proto::VersionStatus StatusOf(TableVersion number, const Version& version) const;
  [[nodiscard]] proto::GetPlanReply::Version PlanOf(TableVersion number,
                                                    const Version& version) const;

  // cluster_records.cc: the state as records.
  void PersistCluster(ClusterEffects* effects) const;
  static void PersistNode(const Node& node, ClusterEffects* effects);
  static void PersistVersion(TableVersion number, const Version& version, ClusterEffects* effects);
  static void PersistOwners(TableVersion number, const Version& version, ClusterEffects* effects);
  static void PersistTarget(TableVersion number, const Version& version, ClusterEffects* effects);
  static void PersistDigests(TableVersion number, const Version& version, uint32_t chunk,
                             ClusterEffects* effects);
  static void ForgetNode(const std::string& node_id, ClusterEffects* effects);
  static void ForgetVersion(TableVersion number, const Version& version, ClusterEffects* effects);
  [[nodiscard]] Status RestoreAll(const std::vector<MetadataRecord>& records, MonotonicTime now);
  [[nodiscard]] Status RestoreRecord(const MetadataRecord& record, MonotonicTime now);
  [[nodiscard]] Status RestoreVersionPart(const MetadataRecord& record, TableVersion number,
                                          const std::string& part);
  [[nodiscard]] Status RestoreVersion(const MetadataRecord& record, TableVersion number);
  [[nodiscard]] Status FinishRestore(TableVersion number, Version& version);

  const Options options_;
  const uint64_t term_;
  uint64_t next_version_ = 1;
  TableVersion current_;
  TableVersion previous_;
  // Of this term; a revision is never given twice, in whatever term (NewRevision).
  uint64_t revisions_given_ = 0;
  std::map<std::string, Node> nodes_;
  std::map<TableVersion, Version> versions_;
  // Reports taken since `reports_since_`, by reader and of all.
  std::map<std::string, uint32_t> reports_;
  uint32_t reports_of_all_ = 0;
  MonotonicTime reports_since_;
};

}  // namespace engram
