// What all ranks must hear of before any of them goes on.
#pragma once

#include <span>
#include <string_view>

#include "engram/base/status.h"
#include "model_worker/collectives/collective.h"

namespace engram {

// Called by every rank with how it fared. ok where all did; else, on every rank, the error of the
// first one that failed, with its number. `collective` may be null: one rank.
// ERRORS besides: the collective's.
[[nodiscard]] Status AgreeOn(Collective* collective, const Status& mine);

// The same where how all fared is known already; *failure is the first rank's error.
//   codes  [ranks] in the order of ranks, at least one of them not kOk
// ERRORS: the collective's.
[[nodiscard]] Status TellFailure(Collective* collective, std::span<const StatusCode> codes,
                                 const Status& mine, Status* failure);

// kInvalidArgument on every rank where `text` (all that must be alike) is not the same on all.
[[nodiscard]] Status AgreeOnSame(Collective* collective, std::string_view text);

}  // namespace engram
