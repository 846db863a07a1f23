// The self-test of one-sided reads.
#pragma once

#include "engram/transport/ucx/ucx_context.h"
#include "engram/transport/ucx/ucx_memory.h"

namespace engram {

// Reads `memory` (of `node_context`, 64 KiB or more, contents left as they were) through a second
// context of the same transports `tls`, while the worker that stands for the node makes no
// progress: only then is it the device that reads, not the node's CPU. Takes up to a few seconds.
// ERRORS: kUnavailable saying what did not complete or differed.
[[nodiscard]] Status CheckOneSidedReads(const UcxContext& node_context, const UcxMemory& memory,
                                        const std::string& tls);

}  // namespace engram
