// Which replica of a row to ask: the nearest that answers, and among equals the least loaded.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "client/node_sessions.h"
#include "client/row_queue.h"
#include "engram/table/shard_map.h"

namespace engram {

// What decides before load does: a lower rank always wins.
using NodeRank = uint8_t;
inline constexpr NodeRank kRankSameHost = 0;  // its memory is mapped here
inline constexpr NodeRank kRankSameZone = 1;
inline constexpr NodeRank kRankFar = 2;
inline constexpr NodeRank kRankSuspected = 3;  // and above: not to be asked if another can be
inline constexpr NodeRank kRankClosed = 4;     // no open session

// A node as rows are divided among replicas: small, because every row looks at all its replicas'.
struct NodeLane {
  RowQueue waiting;             // rows to ask the node for
  uint32_t rows_in_flight = 0;  // asked, not answered
  uint16_t weight = 1;          // of one row, by the node's response time
  NodeRank rank = kRankClosed;
  bool late = false;       // NodeHealth::late
  bool same_zone = false;  // as the client

  // What asking for one more row costs, to compare: by rank, then by load. Rows are fewer than 2^30
  // and weights than 2^16, so the load leaves the top byte alone.
  [[nodiscard]] uint64_t CostOfNext() const {
    return uint64_t{rank} << 56 | (uint64_t{waiting.count()} + rows_in_flight + 1) * weight;
  }
};

// The best of `replicas`, the first of equals: the order differs by slot, so equal nodes share
// evenly. kNoNode when there is none to choose from.
//   left_out  bit i = not replicas[i]
// Inlined: called for every row; without branches on the costs, which no branch predictor can
// guess.
[[nodiscard]] inline NodeIndex ChooseReplica(std::span<const NodeIndex> replicas, uint32_t left_out,
                                             std::span<const NodeLane> lanes) {
  NodeIndex chosen = kNoNode;
  uint64_t best_cost = UINT64_MAX;
  for (size_t i = 0; i < replicas.size() && replicas[i] != kNoNode; ++i) {
    if ((left_out >> i & 1) != 0) continue;
    const uint64_t cost = lanes[replicas[i].value()].CostOfNext();
    chosen = cost < best_cost ? replicas[i] : chosen;
    best_cost = cost < best_cost ? cost : best_cost;
  }
  return chosen;
}

// Brings one lane's rank up to date, or all lanes' ranks and weights. [map nodes] lanes.
void RankNode(const NodeSessions& sessions, NodeIndex node, std::vector<NodeLane>* lanes);
void RateNodes(const NodeSessions& sessions, std::vector<NodeLane>* lanes);

}  // namespace engram
