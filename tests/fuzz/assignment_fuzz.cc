// What a memory node takes from whoever answers as its coordinator: a slot assignment.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "engram/base/check.h"
#include "engram/table/table_proto.h"
#include "shard_server/slot_assignment.h"
#include "shard_server/slot_store.h"
#include "tests/unit/shard_server/small_node.h"

using namespace engram;

namespace {

constexpr int64_t kRowsPlacedMax = 20000;
constexpr uint64_t kMemoryBytesMax = 1u << 20;

// Laying out a large table takes long and finds nothing more.
bool IsSmall(const HashSpec& spec) {
  int64_t rows = 0;
  for (const int64_t base : spec.base_sizes) {
    if (base > kRowsPlacedMax) return false;
    rows += base * spec.head_count * static_cast<int64_t>(spec.layer_ids.size());
  }
  return rows <= kRowsPlacedMax;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  proto::SlotAssignment message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto assignment = SlotAssignmentFromProto(message);
  if (!assignment.has_value()) return 0;
  ENGRAM_CHECK(assignment->version.value() != 0);
  ENGRAM_CHECK(ValidateTableSpec(assignment->spec).ok());
  ENGRAM_CHECK(assignment->origins.empty() ||
               assignment->origins.size() == assignment->slots.size());
  for (size_t i = 0; i < assignment->slots.size(); ++i) {
    const SlotOrigin origin = assignment->origin(i);
    ENGRAM_CHECK(origin.source == kFromCheckpoint || origin.source < assignment->sources.size());
  }
  for (const SlotIndex damaged : assignment->damaged) {
    ENGRAM_CHECK(std::any_of(assignment->slots.begin(), assignment->slots.end(),
                             [&](const AssignedSlot& slot) { return slot.slot == damaged; }));
  }
  if (!IsSmall(assignment->spec.hash)) return 0;
  auto layout = TableLayout::Create(assignment->spec);
  if (!layout.has_value()) return 0;

  test::RecordingRowServer server;
  SlotStore::Options options;
  options.memory_bytes_max = kMemoryBytesMax;
  SlotStore store(&server, &SteadyClock(), options);
  ENGRAM_CHECK(store
                   .AddVersion(assignment->version, assignment->identity,
                               std::make_shared<const TableLayout>(*std::move(layout)))
                   .ok());
  if (store.SetSlots(assignment->version, assignment->slots).ok()) {
    ENGRAM_CHECK(store.EmptyCount(assignment->version) == assignment->slots.size());
  } else {
    ENGRAM_CHECK(store.EmptyCount(assignment->version) == 0);
  }
  ENGRAM_CHECK(store.figures().region_bytes <= kMemoryBytesMax);
  return 0;
}
