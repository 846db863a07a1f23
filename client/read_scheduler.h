// Which node to ask for each row of a ticket, when, and what to do when it does not answer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/hedge_policy.h"
#include "client/node_sessions.h"
#include "client/replica_choice.h"
#include "client/row_queue.h"
#include "client/scheduled_rows.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/table/shard_map.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_reader.h"

namespace engram {

struct SchedulerOptions {
  SessionOptions sessions;
  uint32_t slot_count = 1;  // tickets at once
  uint32_t rows_max = 0;    // of one ticket
  int32_t layer_count = 1;
  uint32_t read_rows_max = 1024;  // rows in one read, so that checking overlaps with the wire
  uint32_t layer_rows_min = 256;  // a read this full does not take rows of the next layer too
  Duration retry_delay_min = std::chrono::milliseconds(1);  // doubles up to 128 times that
  // A read without an answer for this long ends its session (a node that hangs).
  Duration read_silence_max = std::chrono::seconds(3);
  std::string zone;  // of this client: nodes of it are preferred; empty = none is
  HedgeOptions hedging;
};

// A pure state machine: no thread, no clock, no I/O; time and events are inputs, and it acts
// through the RowReader's Open, Close, Post and AcknowledgeEpoch alone. The owner forwards the
// reader's events. So the simulator runs this code.
//
// Every row of every layer is taken exactly once, or its layer ends with an error: no later than
// the first Tick after the ticket's deadline. Rows may be asked of two replicas at once
// (docs/decisions/0016-hedged-reads.md): the first answer is taken, others are dropped. After the
// last OnLayerDone of a ticket, or End, no row of it is passed to TakeRows, however late a reply
// comes. Thread-compatible. After warm-up it allocates only when a map or a session changes or a
// row fails. In four files: tickets and timers; routing (which node, when); reads (posting,
// replies); hedges.
class ReadScheduler {
 public:
  // Everything given by pointer must outlive the scheduler.
  ReadScheduler(const SchedulerOptions& options, const TableLayout* layout, RowReader* reader,
                ScheduledRows* owner);

  // -- tickets. `slot` < slot_count names a ticket from Begin to its last OnLayerDone or End.
  void Begin(uint32_t slot, MonotonicTime now, MonotonicTime deadline);
  // Rows of one layer: `addresses[0..count)` of the ticket's list are all layers' rows so far; the
  // new ones are [first, count). Once for each layer, in order. They wait for the next Pump.
  // OWNERSHIP: `addresses` must stay valid for as long as the ticket.
  void AddRows(uint32_t slot, int32_t layer_index, const RowAddress* addresses, uint32_t first,
               uint32_t count);
  // Posts what can be posted.
  void Pump(MonotonicTime now);
  // Abandons a ticket that is still active.
  void End(uint32_t slot);
  [[nodiscard]] bool active(uint32_t slot) const { return tickets_[slot].active; }

  // -- events
  // Maps of one version; an older epoch than the current is ignored.
  void SetMap(std::shared_ptr<const ShardMap> map, MonotonicTime now);
  void OnOpen(SessionId session, const SessionInfo& info, MonotonicTime now);
  void OnClosed(SessionId session, const Status& why, MonotonicTime now);
  void OnRows(uint64_t tag, const RowChunk& chunk, MonotonicTime now);
  void OnReadDone(uint64_t tag, StatusCode status, MonotonicTime now);
  void OnEpoch(Epoch newest);
  void OnBusy(SessionId session, Duration retry_after, MonotonicTime now) {
    sessions_.OnBusy(session, retry_after, now);
  }
  // Deadlines, retries, sessions to open again.
  void Tick(MonotonicTime now);
  // When Tick has something to do.
  [[nodiscard]] MonotonicTime NextTick() const;

  [[nodiscard]] const NodeSessions& sessions() const { return sessions_; }

 private:
  static constexpr uint32_t kDelayLevels = 8;

  // A row that is not done is queued or in flight, or both: a hedge that waits to be posted.
  struct Row {
    uint8_t done : 1 = 1;
    uint8_t queued : 1 = 0;  // in one queue, of a node or of a delay; if done, to be skipped there
    uint8_t copies : 3 = 0;  // reads in flight that hold it
    uint8_t tried : 3 = 0;   // bit i = replica i failed to give it; forgotten when all have
    uint8_t layer_index = 0;
    uint8_t attempts = 0;  // failed so far; stops at 255
    StatusCode last_error = StatusCode::kOk;
  };
  struct Layer {
    uint32_t rows_left = 0;
    uint32_t first_failed = kNoRow;
    uint64_t rows_failed = 0;
    bool added = false;
    bool done = false;
  };
  struct TicketState {
    bool active = false;
    uint32_t generation = 0;
    int32_t layers_left = 0;
    Duration allowed{};  // from Begin to the deadline
    MonotonicTime deadline;
    const RowAddress* addresses = nullptr;
    uint32_t row_count = 0;
    uint32_t rows_stale = 0;  // done and still queued
  };
  // A posted read. Its rows all belong to one ticket.
  struct Read {
    bool in_use = false;
    uint32_t generation = 0;
    SessionId session;
    uint32_t node = 0;
    uint32_t slot = 0;
    uint32_t ticket_generation = 0;
    Epoch epoch;
    MonotonicTime posted_at;
    MonotonicTime silent_at;  // then its session is given up
    MonotonicTime late_at;    // then it is hedged, or hedged again; max = never
    bool retried = false;
    bool hedged = false;
    bool hedge_won = false;  // another read was first with a row of it
    bool excused = false;    // was late only because nobody called Tick
    uint32_t count = 0;
    std::unique_ptr<uint32_t[]> rows;  // [read_rows_max] row of the ticket; kNoRow = came already
  };
  struct DelayLevel {
    RowQueue rows;
    MonotonicTime due = MonotonicTime::max();
  };

  // Rows of all tickets in one numbering, so that they can share queues.
  [[nodiscard]] uint32_t Global(uint32_t slot, uint32_t row) const {
    return (slot << row_bits_) | row;
  }
  [[nodiscard]] uint32_t RowOf(uint32_t global) const { return global & ((1u << row_bits_) - 1); }
  [[nodiscard]] RowAddress AddressOf(uint32_t global) const {
    return tickets_[global >> row_bits_].addresses[RowOf(global)];
  }
  [[nodiscard]] Layer& LayerOf(uint32_t slot, int32_t layer_index) {
    return layers_[size_t{slot} * static_cast<size_t>(options_.layer_count) +
                   static_cast<size_t>(layer_index)];
  }

  // -- routing
  [[nodiscard]] std::span<const NodeIndex> ReplicasOf(uint32_t global) const {
    return sessions_.map()->Replicas(layout_->SlotOf(AddressOf(global)));
  }
  // Puts a row into the queue of the node to ask, or into the retry delay when there is none.
  void Route(uint32_t global, MonotonicTime now) { RouteTo(ChooseNode(global), global, now); }
  void RouteTo(NodeIndex node, uint32_t global, MonotonicTime now) {
    if (node == kNoNode) return Delay(global, now);
    rows_[global].queued = 1;
    lanes_[node.value()].waiting.PushBack(global, next_.get());
  }
  [[nodiscard]] NodeIndex ChooseNode(uint32_t global);
  void Delay(uint32_t global, MonotonicTime now);
  // A row did not come from `node`, or came wrong: tries it again, unless that cannot help or
  // another read in flight holds it. True if it is tried again.
  bool FailRow(uint32_t global, StatusCode code, NodeIndex node, MonotonicTime now);
  void NoteTried(uint32_t global, NodeIndex node);
  void RerouteAll(MonotonicTime now);
  void RerouteWaiting(MonotonicTime now);
  void Reroute(RowQueue* queue, MonotonicTime now);
  // The lanes of a new map, without rows.
  void ResetLanes();
  [[nodiscard]] static bool MapMayHelp(StatusCode code);
  [[nodiscard]] std::string OtherReplicaText(SlotIndex table_slot, uint32_t replica) const;
  [[nodiscard]] Status FailureOf(uint32_t slot, uint32_t row, uint64_t rows_failed) const;

  // -- hedges
  void HedgeLateReads(MonotonicTime now);
  void HedgeRead(Read* read, MonotonicTime now);
  // Queues what the read still owes at other replicas; false if nothing could be.
  bool AskElsewhere(const Read& read, NodeIndex node);
  // Rows of the slot's ticket came (those in taken_scratch_), some while other reads hold them too.
  void NoteHedgesWon(uint32_t slot, std::span<const uint32_t> rows, MonotonicTime now);
  void Suspect(NodeIndex node, MonotonicTime now);
  void NoteAnswer(NodeIndex node, MonotonicTime now);
  // Replicas opened or moved: reads that are late may be hedged now.
  void LookAtLateReadsAgain(MonotonicTime now);

  // -- reads
  [[nodiscard]] Read* FindRead(uint64_t tag);
  [[nodiscard]] uint32_t FreeRead();
  // The node that was asked, as the current map counts; kNoNode if its session ended or moved on.
  [[nodiscard]] NodeIndex NodeOf(const Read& read) const {
    return read.epoch == sessions_.epoch() ? NodeIndex(read.node) : sessions_.NodeOf(read.session);
  }
  void PumpNode(NodeIndex node, MonotonicTime now);
  // Moves rows of one ticket from the queue to the read; returns how many: none if all were done.
  uint32_t FillRead(RowQueue* queue, Read* read);
  void NotePosted(Read* read, NodeIndex node, MonotonicTime now);
  void NoteReadTime(const Read& read, NodeIndex node, MonotonicTime now);
  // The read no longer holds the row. True if the row is still wanted.
  [[nodiscard]] bool LetGo(uint32_t slot, uint32_t row) {
    Row& state = rows_[Global(slot, row)];
    --state.copies;
    return state.done == 0;
  }
  void TakeChunk(Read* read, const RowChunk& chunk, uint32_t first, uint32_t count,
                 MonotonicTime now);
  void MarkDone(uint32_t global);
  // Rows of the layer that are done now, one at least. May end the ticket.
  void FinishRows(uint32_t slot, int32_t layer_index, uint32_t count);
  void FinishLayer(uint32_t slot, int32_t layer_index);
  void EndRead(uint32_t read_index);
  // Gives up on every row that is not there.
  void Expire(uint32_t slot);
  void RemoveFromQueues(uint32_t slot);
  void CloseSilentSessions(MonotonicTime now);

  const SchedulerOptions options_;
  const TableLayout* layout_;
  ScheduledRows* owner_;
  NodeSessions sessions_;
  HedgePolicy hedging_;
  bool replicated_ = false;           // the map has more than one replica
  std::vector<TicketState> tickets_;  // [slots]
  std::vector<Layer> layers_;         // [slots][layers]
  const uint32_t row_bits_;           // rows_max <= 2^row_bits
  std::unique_ptr<Row[]> rows_;       // [slots][2^row_bits]
  std::unique_ptr<uint32_t[]> next_;  // [slots][2^row_bits] links of the queues
  std::vector<NodeLane> lanes_;       // [map nodes]
  DelayLevel delays_[kDelayLevels];
  std::vector<Read> reads_;
  std::vector<uint32_t> free_reads_;
  uint32_t reads_in_flight_ = 0;
  std::vector<RowAddress> post_scratch_;  // [read_rows_max]
  std::vector<uint32_t> take_scratch_;    // [read_rows_max]
  std::vector<uint8_t> taken_scratch_;    // [read_rows_max]
};

}  // namespace engram
