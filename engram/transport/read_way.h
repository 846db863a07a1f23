// The three ways to read rows, and how each fares (docs/ARCHITECTURE.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engram/base/status.h"

namespace engram {

enum class ReadWay : uint8_t {
  kAuto = 0,      // measured at connect time, the fastest that works is taken
  kGather = 1,    // one message with many row addresses, one reply with the rows
  kMapped = 2,    // same host: the node's memory is mapped here
  kOneSided = 3,  // the network card reads the node's memory
};
inline constexpr size_t kReadWayCount = 4;

// "auto", "gather", "mapped", "one-sided".
[[nodiscard]] std::string_view ReadWayName(ReadWay way);
// The other direction. ERRORS: kInvalidArgument, naming the four.
[[nodiscard]] Result<ReadWay> ParseReadWay(std::string_view name);

}  // namespace engram
