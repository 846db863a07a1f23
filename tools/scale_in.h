// Which memory nodes go when there are to be fewer: pure, for engramctl scale-in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "proto/admin.pb.h"

namespace engram {

// Nodes named `prefix` and a number: 0 to count - 1 stay. As the pods of a StatefulSet.
struct KeptNodes {
  std::string prefix;
  uint64_t count = 0;
};

// "engram-memory-=3". ERRORS: kInvalidArgument.
[[nodiscard]] Result<KeptNodes> ParseKeptNodes(std::string_view text);

struct ScaleIn {
  std::vector<std::string> leaving;    // numbered from their count on, or of a set that goes
  std::vector<std::string> undrained;  // stay, and were drained
};
// `keep_drained` stay drained. Nodes of no prefix in `kept` leave where their name begins with one
// of `of` (all that a release has: a set of it that is not kept goes as a whole), else they are
// nobody's: left alone.
[[nodiscard]] ScaleIn PlanScaleIn(const proto::GetStatusReply& status,
                                  const std::vector<KeptNodes>& kept,
                                  const std::vector<std::string>& of,
                                  const std::vector<std::string>& keep_drained);

// Whether what the leaving nodes hold fits the others, as `plan` without them says, and every
// replica has a node. ERRORS: kFailedPrecondition, with what to do.
[[nodiscard]] Status CheckScaleIn(const proto::GetStatusReply& status, const ScaleIn& scale_in,
                                  const proto::GetPlanReply& plan);

}  // namespace engram
