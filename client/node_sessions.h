// One reader's sessions with the nodes of the shard map: opened, closed, opened again after a
// pause.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/node_health.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/table/shard_map.h"
#include "engram/transport/row_reader.h"

namespace engram {

struct SessionOptions {
  NodeTarget target;                  // what every session asks for; address and incarnation aside
  uint32_t reads_in_flight_max = 16;  // per session; at most kReadsInFlightMax
  Duration reopen_delay_min = std::chrono::milliseconds(5);  // doubles with every failure in a row
  Duration reopen_delay_max = std::chrono::milliseconds(100);
  Duration busy_max = std::chrono::milliseconds(500);  // a node that said it is busy is left alone
  uint64_t seed = 1;                                   // of the jitter
};

// Pure: no thread, no clock, no I/O of its own; it only calls Open, Close, Post and
// AcknowledgeEpoch of the reader given. Thread-compatible. Allocates only when the map or a session
// changes.
class NodeSessions {
 public:
  // `reader` must outlive this.
  NodeSessions(const SessionOptions& options, RowReader* reader);

  // Keeps the sessions of nodes that are the same (id, address, incarnation), closes the others,
  // opens what is new. Node indexes mean the new map from now on. A node that the map says is not
  // up keeps its session too: the coordinator may be wrong, and it is the session that knows.
  void SetMap(std::shared_ptr<const ShardMap> map, MonotonicTime now);
  [[nodiscard]] const ShardMap* map() const { return map_.get(); }

  void OnOpen(SessionId session, ReadWay way);
  // The node whose session it was; kNoNode when the map has moved on.
  NodeIndex OnClosed(SessionId session, const Status& why, MonotonicTime now);
  // Opens again what is due.
  void Tick(MonotonicTime now);
  // When Tick has something to do; time_point::max() = never.
  [[nodiscard]] MonotonicTime NextTick() const;

  [[nodiscard]] uint32_t node_count() const { return static_cast<uint32_t>(nodes_.size()); }
  [[nodiscard]] bool IsOpen(NodeIndex node) const {
    return nodes_[node.value()].state == State::kOpen;
  }
  // As the map says.
  [[nodiscard]] bool IsSaidUp(NodeIndex node) const {
    return map_->nodes[node.value()].incarnation != Incarnation();
  }
  // Ok when every node that holds slots, and is said to be up, has its session open. Else of one
  // that has not, and why: kWrongVersion where a node says that it does not serve the version, else
  // kUnavailable.
  [[nodiscard]] Status AllOpen() const;
  // kNoNode: the session ended, or the map has moved on.
  [[nodiscard]] NodeIndex NodeOf(SessionId session) const;
  // Of the node's session; a fresh one where there is none.
  [[nodiscard]] const NodeHealth& health(NodeIndex node) const {
    return nodes_[node.value()].health;
  }
  [[nodiscard]] NodeHealth& health(NodeIndex node) { return nodes_[node.value()].health; }
  // Open, below the window, and not waiting because the node was busy.
  [[nodiscard]] bool CanPost(NodeIndex node) const;
  // Why the node cannot be read now; ok when nothing is known against it.
  [[nodiscard]] const Status& TroubleOf(NodeIndex node) const {
    return nodes_[node.value()].trouble;
  }
  // Precondition: CanPost. `session` is set when kOk.
  [[nodiscard]] StatusCode Post(NodeIndex node, uint64_t tag, std::span<const RowAddress> rows,
                                MonotonicTime wanted_by, SessionId* session);
  // The node has no room for more reads: nothing is posted to it for `retry_after`, and longer
  // every time that it says so again soon after.
  void OnBusy(SessionId session, Duration retry_after, MonotonicTime now);
  // One read posted under `epoch` ended. Acknowledges the map when it was the last under an older.
  void OnReadDone(SessionId session, Epoch epoch);
  // Gives up on a session that no longer answers; OnClosed follows.
  void Close(SessionId session);
  [[nodiscard]] Epoch epoch() const { return map_ == nullptr ? Epoch() : map_->epoch; }

 private:
  enum class State : uint8_t {
    kDown,  // no session; opened again at reopen_at
    kOpening,
    kOpen,
    kClosing,  // OnClosed is still to come
  };
  struct Node {
    State state = State::kDown;
    bool holds_slots = false;  // as the map says
    SessionId session;
    Incarnation incarnation;  // that its sessions are for; 0 = not up since it is known here
    MonotonicTime reopen_at = MonotonicTime::max();
    uint32_t failures = 0;  // in a row
    bool busy = false;      // until the first Tick after busy_until
    MonotonicTime busy_until;
    uint32_t refusals = 0;  // in a row
    Status trouble;
    NodeHealth health;
  };
  struct Session {
    NodeIndex node = kNoNode;  // kNoNode: the map has moved on
    uint32_t reads_in_flight = 0;
    uint32_t old_reads_in_flight = 0;  // posted under an older map than the current
    Epoch acknowledged;
    bool open = false;
    bool closing = false;  // Close was called
  };

  void Open(NodeIndex node);
  void AcknowledgeIfQuiet(SessionId id, Session* session);
  // `first`, doubled `times` times but at most `most`; half to one and a half times that, so that
  // clients part.
  [[nodiscard]] Duration Spread(Duration first, uint32_t times, Duration most);

  SessionOptions options_;
  RowReader* reader_;
  std::shared_ptr<const ShardMap> map_;
  std::vector<Node> nodes_;  // [map nodes]
  std::unordered_map<SessionId, Session> sessions_;
  uint64_t random_;
};

}  // namespace engram
