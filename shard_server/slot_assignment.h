// What the coordinator wants a memory node to hold of one version.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"
#include "proto/node.pb.h"
#include "shard_server/slot_store.h"

namespace engram {

// A value: the whole of what a node should hold, not a change.
struct SlotAssignment {
  TableVersion version;
  uint64_t revision = 0;
  Epoch newest_epoch;
  TableSpec spec;
  ModelIdentity identity{};
  std::filesystem::path checkpoint;
  std::vector<AssignedSlot> slots;  // ascending
};

// Checks everything but that the slots are in the layout's range (SlotStore::SetSlots does).
// ERRORS: kMalformed naming the field.
[[nodiscard]] Result<SlotAssignment> SlotAssignmentFromProto(const proto::SlotAssignment& message);

}  // namespace engram
