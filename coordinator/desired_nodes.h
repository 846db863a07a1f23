// How many memory nodes are recommended: for a person or a program that adds them. Pure.
#pragma once

#include <cstdint>

#include "proto/admin.pb.h"

namespace engram {

// Of a node's memory, what tables may take: the rest is for slots that arrive before others have
// left, and for the unevenness of slots.
inline constexpr double kDesiredFill = 0.9;

// The fewest memory nodes like those there are (the median of those that take slots, or of all
// known ones) that hold every version with all replicas that were asked for, kDesiredFill full at
// most, and still do when one of them is lost, where there are several replicas.
//   0 where no node or no version is known.
[[nodiscard]] uint64_t DesiredMemoryNodes(const proto::GetStatusReply& status);

}  // namespace engram
