#include "shard_server/slot_assignment.h"

#include <string>
#include <utility>

#include "engram/table/table_proto.h"

namespace engram {

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
  return assignment;
}

}  // namespace engram
