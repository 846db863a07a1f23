#include "engram/transport/read_way.h"

#include <array>
#include <string>

namespace engram {
namespace {
constexpr std::array kWays = {ReadWay::kAuto, ReadWay::kGather, ReadWay::kMapped,
                              ReadWay::kOneSided};
}  // namespace

std::string_view ReadWayName(ReadWay way) {
  switch (way) {
    case ReadWay::kAuto:
      return "auto";
    case ReadWay::kGather:
      return "gather";
    case ReadWay::kMapped:
      return "mapped";
    case ReadWay::kOneSided:
      return "one-sided";
  }
  return "unknown";
}

Result<ReadWay> ParseReadWay(std::string_view name) {
  for (const ReadWay way : kWays) {
    if (name == ReadWayName(way)) return way;
  }
  return Error(StatusCode::kInvalidArgument, "unknown way to read '" + std::string(name) +
                                                 "': use auto, gather, mapped or one-sided");
}

}  // namespace engram
