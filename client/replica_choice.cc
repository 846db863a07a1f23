#include "client/replica_choice.h"

#include <algorithm>

namespace engram {
namespace {

// Steps of a quarter of the fastest node's time: less is noise. And at most eight times, so that a
// slow node still gets the few rows that show when it is fast again.
constexpr int64_t kWeightEven = 4;
constexpr int64_t kWeightMax = 8 * kWeightEven;

}  // namespace

void RankNode(const NodeSessions& sessions, NodeIndex node, std::vector<NodeLane>* lanes) {
  NodeLane& lane = (*lanes)[node.value()];
  const NodeHealth& health = sessions.health(node);
  lane.late = health.late;
  lane.rank = !sessions.IsOpen(node)                         ? kRankClosed
              : health.suspected || !sessions.IsSaidUp(node) ? kRankSuspected
              : health.mapped                                ? kRankSameHost
              : lane.same_zone                               ? kRankSameZone
                                                             : kRankFar;
}

void RateNodes(const NodeSessions& sessions, std::vector<NodeLane>* lanes) {
  // Only nodes of one rank are compared, and mapped memory is many times faster than any wire.
  Duration fastest[kRankClosed + 1];
  std::fill(std::begin(fastest), std::end(fastest), Duration::max());
  for (uint32_t i = 0; i < lanes->size(); ++i) {
    RankNode(sessions, NodeIndex(i), lanes);
    const Duration read_time = sessions.health(NodeIndex(i)).read_time;
    Duration& best = fastest[(*lanes)[i].rank];
    if (read_time != Duration()) best = std::min(best, read_time);
  }
  for (uint32_t i = 0; i < lanes->size(); ++i) {
    NodeLane& lane = (*lanes)[i];
    const int64_t read_time = sessions.health(NodeIndex(i)).read_time.count();
    const int64_t best = fastest[lane.rank].count();
    // A node without an answer yet counts as the fastest: it has to be tried.
    const int64_t weight =
        read_time == 0 ? kWeightEven : (read_time * kWeightEven + best / 2) / best;
    lane.weight = static_cast<uint16_t>(std::clamp(weight, kWeightEven, kWeightMax));
  }
}

}  // namespace engram
