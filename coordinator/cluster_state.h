// What the coordinator knows and decides. Pure and deterministic: events and their time come in,
// effects go out; the same events give the same state. No I/O, no clock, no randomness, no logging.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/metadata_store.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/shard_map.h"
#include "engram/table/table_layout.h"
#include "proto/admin.pb.h"
#include "proto/node.pb.h"

namespace engram {

inline constexpr size_t kNodeIdBytesMax = 128;
inline constexpr size_t kPathBytesMax = 4096;
inline constexpr uint32_t kVersionsMax = 64;
inline constexpr uint32_t kDigestsPerRecord = 4096;

// A memory node's process has started, or was forgotten and introduces itself again.
struct NodeRegistered {
  proto::NodeDescription description;
};
// A node is alive, and tells what it holds.
struct NodeHeartbeat {
  proto::HeartbeatRequest message;
};
// Somebody wants the tables of a checkpoint served. Its headers were read and found right.
struct VersionRequested {
  TableSpec spec;
  ModelIdentity identity{};
  std::string checkpoint_path;
  uint32_t replica_count = 1;
  bool make_current = false;
  uint32_t expect_nodes = 0;
};
// A reader found damaged rows.
struct SlotReported {
  TableVersion version;
  SlotIndex slot;
  std::string node_id;
  Incarnation incarnation;
};
// Time passes.
struct TimePassed {};

using ClusterEvent =
    std::variant<NodeRegistered, NodeHeartbeat, VersionRequested, SlotReported, TimePassed>;

struct ClusterEffects {
  Status status;                        // of the event: what its sender is answered
  std::vector<MetadataRecord> records;  // to be durable before anything else of this is seen
  bool wake = false;                    // maps, assignments or readiness changed: ask again
  std::vector<std::string> notes;       // one line each, for the log
  TableVersion created;                 // VersionRequested: the new version
};

// Thread-compatible.
class ClusterState {
 public:
  struct Options {
    std::chrono::milliseconds heartbeat_interval{1000};
    // A node that was not heard of for this long is down: clients are told, its slots stay its own.
    std::chrono::milliseconds down_after{3000};
  };
  ClusterState(const Options& options, uint64_t term) : options_(options), term_(term) {}

  // Takes back what was persisted. Nodes count as up until `down_after` from now; what they hold is
  // not known until they tell. Every map goes out at a new epoch, since what it says of the nodes
  // may differ. Call once, first. ERRORS: kCorrupt naming the record.
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

 private:
  struct Node {
    proto::NodeDescription description;
    bool up = false;
    MonotonicTime heard_of;
    uint64_t corrupt_rows_found = 0;
  };
  // One node's part of one version. Volatile: the node tells it again.
  struct Holding {
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
    uint64_t assignment_revision = 1;
    std::vector<std::string> node_ids;  // [NodeIndex]
    std::vector<uint64_t> digests;      // [slots]; 0 = not recorded yet
    std::shared_ptr<const ShardMap> map;
    std::vector<uint8_t> ready;           // [slots][replicas]
    std::vector<uint8_t> ready_replicas;  // [slots]
    uint32_t slots_ready = 0;             // with at least one ready replica
    std::vector<Holding> holdings;        // [NodeIndex]
    uint64_t damaged_slot_reports = 0;
  };

  void On(const NodeRegistered& event, MonotonicTime now, ClusterEffects* effects);
  void On(const NodeHeartbeat& event, MonotonicTime now, ClusterEffects* effects);
  void On(const VersionRequested& event, MonotonicTime now, ClusterEffects* effects);
  void On(const SlotReported& event, MonotonicTime now, ClusterEffects* effects);
  void On(const TimePassed& event, MonotonicTime now, ClusterEffects* effects);

  void TakeHeld(Node& node, const proto::HeldVersion& held, ClusterEffects* effects);
  void TakeReadySlots(TableVersion number, Version& version, NodeIndex node,
                      const proto::HeldVersion& held, ClusterEffects* effects);
  void ForgetHoldings(const std::string& node_id);
  static void ForgetHolding(Version& version, NodeIndex node);
  // The map with today's nodes, at the next epoch, persisted.
  void PublishMap(TableVersion number, ClusterEffects* effects);
  void PublishMapsOf(const std::string& node_id, ClusterEffects* effects);
  void BecomeReadyIfComplete(TableVersion number, ClusterEffects* effects);
  [[nodiscard]] std::vector<ShardMapNode> MapNodes(const Version& version) const;
  [[nodiscard]] uint64_t AssignedBytes(const std::string& node_id) const;
  [[nodiscard]] static NodeIndex IndexOf(const Version& version, const std::string& node_id);

  // cluster_records.cc: the state as records.
  void PersistCluster(ClusterEffects* effects) const;
  static void PersistNode(const Node& node, ClusterEffects* effects);
  static void PersistVersion(TableVersion number, const Version& version, ClusterEffects* effects);
  static void PersistOwners(TableVersion number, const Version& version, ClusterEffects* effects);
  static void PersistDigests(TableVersion number, const Version& version, uint32_t chunk,
                             ClusterEffects* effects);
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
  std::map<std::string, Node> nodes_;
  std::map<TableVersion, Version> versions_;
};

}  // namespace engram
