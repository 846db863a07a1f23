// Mistakes that a test plants, one at a time, to show that the simulator finds each.
#pragma once

#include <cstdint>
#include <string_view>

namespace engram::sim {

enum class PlantedBug : uint8_t {
  kNone,
  kSkipLeaseWait,        // a node gives memory away while a lease may still point at it
  kReuseEpoch,           // epochs are not kept, so the next leader gives them out again
  kForgetFence,          // the store takes writes of a leader whose term is over
  kDropAcknowledgement,  // a reader that has moved on to a newer map does not say so
  kPublishBeforeVerify,  // a node serves copied rows that it did not check
};

inline constexpr PlantedBug kPlantedBugs[] = {
    PlantedBug::kSkipLeaseWait, PlantedBug::kReuseEpoch, PlantedBug::kForgetFence,
    PlantedBug::kDropAcknowledgement, PlantedBug::kPublishBeforeVerify};

[[nodiscard]] constexpr std::string_view NameOf(PlantedBug bug) {
  switch (bug) {
    case PlantedBug::kNone:
      return "none";
    case PlantedBug::kSkipLeaseWait:
      return "skip-lease-wait";
    case PlantedBug::kReuseEpoch:
      return "reuse-epoch";
    case PlantedBug::kForgetFence:
      return "forget-fence";
    case PlantedBug::kDropAcknowledgement:
      return "drop-acknowledgement";
    case PlantedBug::kPublishBeforeVerify:
      return "publish-before-verify";
  }
  return "";
}

}  // namespace engram::sim
