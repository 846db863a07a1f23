#include "coordinator/desired_nodes.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace engram {
namespace {

uint64_t MedianCapacity(const proto::GetStatusReply& status) {
  std::vector<uint64_t> taking;
  std::vector<uint64_t> all;
  for (const auto& node : status.nodes()) {
    if (node.capacity_bytes() == 0) continue;
    all.push_back(node.capacity_bytes());
    if (node.up() && !node.draining()) taking.push_back(node.capacity_bytes());
  }
  std::vector<uint64_t>& chosen = taking.empty() ? all : taking;
  if (chosen.empty()) return 0;
  const auto middle = chosen.begin() + static_cast<std::ptrdiff_t>((chosen.size() - 1) / 2);
  std::nth_element(chosen.begin(), middle, chosen.end());
  return *middle;
}

}  // namespace

uint64_t DesiredMemoryNodes(const proto::GetStatusReply& status) {
  double bytes = 0;
  uint64_t replicas_max = 0;
  for (const auto& version : status.versions()) {
    // total_bytes is of the replicas that are wanted now: fewer while memory is short.
    const uint64_t asked = std::max<uint64_t>(version.replica_count(), 1);
    const uint64_t now = version.replicas_wanted() == 0 ? asked : version.replicas_wanted();
    bytes += static_cast<double>(version.total_bytes()) / static_cast<double>(now) *
             static_cast<double>(asked);
    replicas_max = std::max(replicas_max, asked);
  }
  const uint64_t capacity = MedianCapacity(status);
  if (replicas_max == 0 || capacity == 0) return 0;
  const auto full =
      static_cast<uint64_t>(std::ceil(bytes / (static_cast<double>(capacity) * kDesiredFill)));
  const uint64_t fewest = std::max(full, replicas_max);
  return replicas_max > 1 ? fewest + 1 : fewest;
}

}  // namespace engram
