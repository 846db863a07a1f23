// Which memory pod of a Helm release is replaced next, and what that waits for: pure, for
// engramctl roll.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engram/base/status.h"
#include "proto/admin.pb.h"

namespace engram {

// A pod of a StatefulSet; its name is its memory node's id.
struct RollPod {
  std::string name;
  std::string uid;       // empty: there is none just now
  std::string revision;  // of the StatefulSet's template that it was made from
  bool ready = false;
  bool ending = false;
};

struct RollSet {
  std::string name;
  uint32_t replicas = 0;
  std::string revision;       // that new pods are made from
  bool observed = false;      // the controller has seen the newest template: `revision` is its
  std::vector<RollPod> pods;  // by number
};

// As the API server writes them. `pods` is left empty. ERRORS: kMalformed.
[[nodiscard]] Result<RollSet> ParseRollSet(const nlohmann::json& stateful_set);
// ERRORS: kMalformed.
[[nodiscard]] Result<RollPod> ParseRollPod(const nlohmann::json& pod);

// The pod that was replaced last: a coordinator may not yet know that its node is another one.
struct RollReplaced {
  std::string name;
  uint64_t incarnation = 0;
};

struct RollStep {
  bool done = false;               // every pod is of its set's revision
  std::optional<RollPod> replace;  // no row has its only holder there
  std::string waits_for;           // neither: why
};
// One pod may be replaced when every other pod is ready, every other node up with all its slots,
// and each version has a second replica of each slot. First those that are not ready: a template
// that does not start is replaced by the next one. A pod that is not ready, whose node is down as
// well, costs nothing more; then what is missing does not matter.
[[nodiscard]] RollStep NextRollStep(const std::vector<RollSet>& sets,
                                    const proto::GetStatusReply& status,
                                    const std::optional<RollReplaced>& last);

}  // namespace engram
