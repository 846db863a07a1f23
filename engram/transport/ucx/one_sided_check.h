// The self-test of one-sided reads.
#pragma once

#include "engram/transport/landing_memory.h"
#include "engram/transport/ucx/ucx_context.h"

namespace engram {

// Reads memory of `node_context` through `reader_context`, of the same transports, while the worker
// that stands for the node makes no progress: only then is it the device that reads, not the node's
// CPU. Takes up to a few seconds.
//   landing  where the bytes are to go; null = into memory of the host
// ERRORS: kUnavailable saying what did not complete or differed; the landing's.
[[nodiscard]] Status CheckOneSidedReads(const UcxContext& node_context,
                                        const UcxContext& reader_context, LandingMemory* landing);

}  // namespace engram
