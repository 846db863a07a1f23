#include "client/node_sessions.h"

#include <algorithm>

#include "engram/base/check.h"

namespace engram {

NodeSessions::NodeSessions(const SessionOptions& options, RowReader* reader)
    : options_(options), reader_(reader), random_(options.seed) {
  ENGRAM_CHECK(options.reads_in_flight_max >= 1 &&
               options.reads_in_flight_max <= kReadsInFlightMax);
}

void NodeSessions::SetMap(std::shared_ptr<const ShardMap> map, MonotonicTime now) {
  const std::shared_ptr<const ShardMap> old_map = std::move(map_);
  std::vector<Node> old_nodes = std::move(nodes_);
  map_ = std::move(map);
  nodes_.assign(map_->nodes.size(), Node{});
  std::unordered_map<std::string_view, size_t> old_places;
  if (old_map != nullptr) {
    for (size_t i = 0; i < old_nodes.size(); ++i) old_places.emplace(old_map->nodes[i].id, i);
  }
  for (auto& [id, session] : sessions_) {
    session.old_reads_in_flight = session.reads_in_flight;
    session.node = kNoNode;  // until found again below
  }
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    const ShardMapNode& wanted = map_->nodes[i];
    const auto old_place = old_places.find(wanted.id);
    if (old_place != old_places.end()) {
      const ShardMapNode& before = old_map->nodes[old_place->second];
      Node& old_node = old_nodes[old_place->second];
      const bool same_process =
          wanted.incarnation == old_node.incarnation || wanted.incarnation == Incarnation();
      if (before.address == wanted.address && same_process) {
        nodes_[i] = std::move(old_node);
        old_node = Node{};
        const auto session = sessions_.find(nodes_[i].session);
        if (session != sessions_.end()) session->second.node = NodeIndex(i);
        continue;
      }
    }
    nodes_[i].incarnation = wanted.incarnation;
    if (wanted.incarnation == Incarnation()) {
      nodes_[i].trouble = Status(StatusCode::kUnavailable, "the coordinator says it is not up");
    } else {
      nodes_[i].reopen_at = now;
    }
  }
  for (Node& node : nodes_) node.holds_slots = false;
  for (const NodeIndex owner : map_->owners) {
    if (owner != kNoNode) nodes_[owner.value()].holds_slots = true;
  }
  for (auto& [id, session] : sessions_) {
    if (session.node == kNoNode) {
      if (!session.closing) reader_->Close(id);
      session.closing = true;
    } else {
      AcknowledgeIfQuiet(id, &session);
    }
  }
  Tick(now);
}

void NodeSessions::Open(NodeIndex index) {
  Node& node = nodes_[index.value()];
  NodeTarget target = options_.target;
  target.address = map_->nodes[index.value()].address;
  target.incarnation = node.incarnation;
  node.state = State::kOpening;
  node.reopen_at = MonotonicTime::max();
  node.session = reader_->Open(target);
  sessions_[node.session].node = index;
}

void NodeSessions::OnOpen(SessionId id, ReadWay way) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Session& session = found->second;
  session.open = true;
  if (session.node == kNoNode) return;
  Node& node = nodes_[session.node.value()];
  if (node.state != State::kOpening) return;
  node.state = State::kOpen;
  node.failures = 0;
  node.trouble = Status();
  node.health.mapped = way == ReadWay::kMapped;
  AcknowledgeIfQuiet(id, &session);
}

Status NodeSessions::AllOpen() const {
  if (map_ == nullptr) return {StatusCode::kUnavailable, "there is no shard map yet"};
  Status missing;
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    const NodeIndex index(i);
    if (!nodes_[i].holds_slots || IsOpen(index) || !IsSaidUp(index)) continue;
    const Status& trouble = nodes_[i].trouble;
    const bool dropped = trouble.code() == StatusCode::kWrongVersion;
    if (!dropped && !missing.ok()) continue;
    missing = Status(dropped ? StatusCode::kWrongVersion : StatusCode::kUnavailable,
                     "memory node " + map_->nodes[i].id + " (" + map_->nodes[i].address +
                         "): " + (trouble.ok() ? "has not answered yet" : trouble.message()));
    if (dropped) break;
  }
  return missing;
}

NodeIndex NodeSessions::OnClosed(SessionId id, const Status& why, MonotonicTime now) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return kNoNode;
  const NodeIndex index = found->second.node;
  sessions_.erase(found);
  if (index == kNoNode) return kNoNode;
  Node& node = nodes_[index.value()];
  node.state = State::kDown;
  node.session = SessionId();
  node.health = NodeHealth();
  // A session that we closed ourselves keeps the reason that made us do it.
  if (why.code() != StatusCode::kCancelled || node.trouble.ok()) node.trouble = why;
  node.reopen_at =
      now + Spread(options_.reopen_delay_min, node.failures++, options_.reopen_delay_max);
  return index;
}

void NodeSessions::Tick(MonotonicTime now) {
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].busy_until <= now) nodes_[i].busy = false;
    if (nodes_[i].state == State::kDown && nodes_[i].reopen_at <= now) Open(NodeIndex(i));
  }
}

MonotonicTime NodeSessions::NextTick() const {
  MonotonicTime next = MonotonicTime::max();
  for (const Node& node : nodes_) {
    if (node.state == State::kDown) next = std::min(next, node.reopen_at);
    if (node.busy) next = std::min(next, node.busy_until);
  }
  return next;
}

NodeIndex NodeSessions::NodeOf(SessionId session) const {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? kNoNode : found->second.node;
}

bool NodeSessions::CanPost(NodeIndex index) const {
  const Node& node = nodes_[index.value()];
  if (node.state != State::kOpen || node.busy) return false;
  return sessions_.at(node.session).reads_in_flight < options_.reads_in_flight_max;
}

StatusCode NodeSessions::Post(NodeIndex index, uint64_t tag, std::span<const RowAddress> rows,
                              MonotonicTime wanted_by, SessionId* session) {
  Node& node = nodes_[index.value()];
  const StatusCode code = reader_->Post(node.session, tag, rows, wanted_by);
  if (code == StatusCode::kOk) {
    ++sessions_.at(node.session).reads_in_flight;
    *session = node.session;
  } else if (code == StatusCode::kPeerLost) {
    node.state = State::kClosing;
    node.trouble = Status(StatusCode::kPeerLost, "the connection ended");
  }
  return code;
}

void NodeSessions::OnReadDone(SessionId id, Epoch posted_under) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Session& session = found->second;
  ENGRAM_CHECK(session.reads_in_flight > 0);
  --session.reads_in_flight;
  if (posted_under < epoch() && session.old_reads_in_flight > 0) --session.old_reads_in_flight;
  AcknowledgeIfQuiet(id, &session);
}

void NodeSessions::AcknowledgeIfQuiet(SessionId id, Session* session) {
  if (!session->open || session->node == kNoNode || session->old_reads_in_flight > 0) return;
  if (session->acknowledged >= epoch()) return;
  session->acknowledged = epoch();
  reader_->AcknowledgeEpoch(id, session->acknowledged);
}

void NodeSessions::Close(SessionId id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second.closing) return;
  found->second.closing = true;
  if (found->second.node != kNoNode) {
    Node& node = nodes_[found->second.node.value()];
    node.state = State::kClosing;
    node.trouble = Status(StatusCode::kPeerLost, "a read got no answer in time");
  }
  reader_->Close(id);
}

void NodeSessions::OnBusy(SessionId id, Duration retry_after, MonotonicTime now) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second.node == kNoNode) return;
  Node& node = nodes_[found->second.node.value()];
  if (node.busy) return;  // it refused what was posted before it said so
  const bool again = now < node.busy_until + options_.busy_max;
  node.refusals = again ? node.refusals + 1 : 0;
  node.busy = true;
  node.busy_until = now + Spread(std::max<Duration>(retry_after, std::chrono::microseconds(100)),
                                 node.refusals, options_.busy_max);
}

Duration NodeSessions::Spread(Duration first, uint32_t times, Duration most) {
  Duration delay = first;
  for (uint32_t i = 0; i < times && delay < most; ++i) delay *= 2;
  delay = std::min(delay, most);
  // SplitMix64 (Steele et al. 2014).
  random_ += 0x9e3779b97f4a7c15u;
  uint64_t z = random_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return delay / 2 + Duration(static_cast<int64_t>(z % static_cast<uint64_t>(delay.count() + 1)));
}

}  // namespace engram
