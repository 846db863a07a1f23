// What the coordinator wants a memory node to hold of one version.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"
#include "proto/node.pb.h"
#include "shard_server/slot_store.h"

namespace engram {

// A node that a slot can be copied from.
struct SourceNode {
  std::string id;
  std::string data_address;  // "host:port"
  Incarnation incarnation;
  friend bool operator==(const SourceNode&, const SourceNode&) = default;
};

inline constexpr uint32_t kFromCheckpoint = 0xffffffff;

// Where an assigned slot comes from while it is not held, and how urgent it is.
struct SlotOrigin {
  uint32_t source = kFromCheckpoint;  // an index into `sources`
  uint32_t rank = 0;                  // lower first: 0 = no replica has it, 1 = repair, 2 = balance
  friend bool operator==(const SlotOrigin&, const SlotOrigin&) = default;
};

// A value: the whole of what a node should hold, not a change.
struct SlotAssignment {
  TableVersion version;
  uint64_t revision = 0;
  Epoch newest_epoch;
  TableSpec spec;
  ModelIdentity identity{};
  std::filesystem::path checkpoint;
  std::vector<AssignedSlot> slots;  // ascending
  std::vector<SourceNode> sources;
  std::vector<SlotOrigin> origins;  // [slots], or empty: every slot from the checkpoint, at rank 0
  std::vector<SlotIndex> damaged;   // held, but to be replaced: ascending, each in `slots`

  // Of slots[i].
  [[nodiscard]] SlotOrigin origin(size_t i) const {
    return origins.empty() ? SlotOrigin{} : origins[i];
  }
};

inline constexpr int kSourcesMax = 4096;

// Checks everything but that the slots are in the layout's range (SlotStore::SetSlots does).
// ERRORS: kMalformed naming the field.
[[nodiscard]] Result<SlotAssignment> SlotAssignmentFromProto(const proto::SlotAssignment& message);

}  // namespace engram
