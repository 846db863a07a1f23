// What happens to a cluster, and what comes of it: the inputs and outputs of ClusterState::Step.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "coordinator/metadata_store.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"
#include "proto/node.pb.h"

namespace engram {

inline constexpr size_t kNodeIdBytesMax = 128;
inline constexpr size_t kPathBytesMax = 4096;
inline constexpr uint32_t kVersionsMax = 64;
inline constexpr uint32_t kDigestsPerRecord = 4096;
// What readers report is noted, and sends nodes to repair: once for a slot of a node within this
// time, and so often for one reader and for all.
inline constexpr std::chrono::seconds kSlotReportAgain{10};
inline constexpr uint32_t kSlotReportsPerReader = 64;
inline constexpr uint32_t kSlotReportsOfAll = 512;

// A memory node's process has started, or was forgotten and introduces itself again.
struct NodeRegistered {
  proto::NodeDescription description;
};
// A node is alive, and tells what it holds.
struct NodeHeartbeat {
  proto::HeartbeatRequest message;
};
// An operator wants a node's slots elsewhere, or no longer.
struct NodeDrained {
  std::string node_id;
  bool undo = false;
};
// An operator wants a node forgotten.
struct NodeRemoved {
  std::string node_id;
};
// Somebody wants the tables of a checkpoint served. Its headers were read and found right.
struct VersionRequested {
  TableSpec spec;
  ModelIdentity identity{};
  std::string checkpoint_path;
  uint32_t replica_count = 1;
  bool make_current = false;
  uint32_t expect_nodes = 0;
  // Where memory is short: in place of one replica of each slot of the current version.
  bool take_replica = false;
  bool dry_run = false;  // only says what would be
};
// An operator wants clients to read this version; 0 = the previous one.
struct VersionSwitched {
  TableVersion version;
};
// An operator wants a version's memory back.
struct VersionDropped {
  TableVersion version;
};
// A reader found damaged rows.
struct SlotReported {
  TableVersion version;
  SlotIndex slot;
  std::string node_id;
  Incarnation incarnation;
  std::string reader = {};  // who says so, as its reports are counted
};
// Time passes.
struct TimePassed {};

using ClusterEvent =
    std::variant<NodeRegistered, NodeHeartbeat, NodeDrained, NodeRemoved, VersionRequested,
                 VersionSwitched, VersionDropped, SlotReported, TimePassed>;

struct ClusterEffects {
  Status status;                        // of the event: what its sender is answered
  std::vector<MetadataRecord> records;  // to be durable before anything else of this is seen
  bool wake = false;                    // maps, assignments or readiness changed: ask again
  std::vector<std::string> notes;       // one line each, for the log and for engramctl events
  // VersionRequested: the new version (0: dry run), its replicas until there is memory for all, and
  // the version that gives up one replica of each slot for it (0 = none), what it keeps and frees.
  TableVersion created;
  uint32_t replicas_at_first = 0;
  TableVersion taken_from;
  uint32_t taken_from_keeps = 0;
  uint64_t taken_bytes = 0;
};

}  // namespace engram
