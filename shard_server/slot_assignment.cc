#include "shard_server/slot_assignment.h"

#include <string>
#include <utility>

#include "engram/table/table_proto.h"

namespace engram {
namespace {

constexpr size_t kSourceTextBytesMax = 512;

// Empty, or why the sources, origins and damaged slots cannot be meant so.
std::string TakeOrigins(const proto::SlotAssignment& message, SlotAssignment* assignment) {
  if (message.sources_size() > kSourcesMax) {
    return std::to_string(message.sources_size()) + " sources; " + std::to_string(kSourcesMax) +
           " are allowed";
  }
  for (const proto::SourceNode& source : message.sources()) {
    if (source.id().empty() || source.id().size() > kSourceTextBytesMax ||
        source.data_address().empty() || source.data_address().size() > kSourceTextBytesMax ||
        source.incarnation() == 0) {
      return "source " + std::to_string(assignment->sources.size()) +
             " lacks its id, address or incarnation, or one is over 512 bytes";
    }
    assignment->sources.push_back(
        {source.id(), source.data_address(), Incarnation(source.incarnation())});
  }
  const int slots = message.slots_size();
  for (const int count : {message.slot_sources_size(), message.slot_ranks_size()}) {
    if (count != 0 && count != slots) {
      return std::to_string(slots) + " slots but " + std::to_string(count) +
             " slot_sources or slot_ranks";
    }
  }
  if (message.slot_sources_size() == 0 && message.slot_ranks_size() == 0) return "";
  assignment->origins.resize(static_cast<size_t>(slots));
  for (int i = 0; i < slots; ++i) {
    SlotOrigin& origin = assignment->origins[static_cast<size_t>(i)];
    if (message.slot_ranks_size() != 0) origin.rank = message.slot_ranks(i);
    if (message.slot_sources_size() != 0) origin.source = message.slot_sources(i);
    if (origin.source != kFromCheckpoint && origin.source >= assignment->sources.size()) {
      return "slot " + std::to_string(message.slots(i)) + " has source " +
             std::to_string(origin.source) + " of " + std::to_string(assignment->sources.size());
    }
  }
  return "";
}

// After the slots: each damaged one is among them.
std::string TakeDamaged(const proto::SlotAssignment& message, SlotAssignment* assignment) {
  int next = 0;
  for (int i = 0; i < message.damaged_slots_size(); ++i) {
    const uint32_t slot = message.damaged_slots(i);
    if (i > 0 && message.damaged_slots(i - 1) >= slot) {
      return "damaged_slots are not ascending at " + std::to_string(slot);
    }
    while (next < message.slots_size() && message.slots(next) < slot) ++next;
    if (next == message.slots_size() || message.slots(next) != slot) {
      return "damaged slot " + std::to_string(slot) + " is not assigned";
    }
    assignment->damaged.emplace_back(slot);
  }
  return "";
}

}  // namespace

Result<SlotAssignment> SlotAssignmentFromProto(const proto::SlotAssignment& message) {
  const std::string name = "the assignment of version " + std::to_string(message.version());
  const auto malformed = [&](const std::string& what) {
    return Error(StatusCode::kMalformed, name + ": " + what);
  };
  if (message.version() == 0) return malformed("version 0 means none");
  auto spec = TableSpecFromProto(message.spec());
  if (!spec.has_value()) return Error(spec.error().WithContext(name));
  auto identity = ModelIdentityFromBytes(message.model_identity());
  if (!identity.has_value()) return Error(identity.error().WithContext(name));
  if (message.slots_size() != message.digests_size()) {
    return malformed(std::to_string(message.slots_size()) + " slots but " +
                     std::to_string(message.digests_size()) + " digests");
  }
  if (message.checkpoint_path().empty()) return malformed("checkpoint_path is empty");
  SlotAssignment assignment;
  assignment.version = TableVersion(message.version());
  assignment.revision = message.revision();
  assignment.newest_epoch = Epoch(message.newest_epoch());
  assignment.spec = *std::move(spec);
  assignment.identity = *identity;
  assignment.checkpoint = message.checkpoint_path();
  assignment.slots.reserve(static_cast<size_t>(message.slots_size()));
  for (int i = 0; i < message.slots_size(); ++i) {
    if (i > 0 && message.slots(i - 1) >= message.slots(i)) {
      return malformed("slots are not ascending at " + std::to_string(message.slots(i)));
    }
    assignment.slots.push_back({SlotIndex(message.slots(i)), message.digests(i)});
  }
  if (const std::string fault = TakeOrigins(message, &assignment); !fault.empty()) {
    return malformed(fault);
  }
  if (const std::string fault = TakeDamaged(message, &assignment); !fault.empty()) {
    return malformed(fault);
  }
  return assignment;
}

}  // namespace engram
