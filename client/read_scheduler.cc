#include "client/read_scheduler.h"

#include <algorithm>
#include <bit>

#include "engram/base/check.h"

namespace engram {
ReadScheduler::ReadScheduler(const SchedulerOptions& options, const TableLayout* layout,
                             RowReader* reader, ScheduledRows* owner)
    : options_(options),
      layout_(layout),
      owner_(owner),
      sessions_(options.sessions, reader),
      hedging_(options.hedging),
      tickets_(options.slot_count),
      layers_(size_t{options.slot_count} * static_cast<size_t>(options.layer_count)),
      row_bits_(static_cast<uint32_t>(std::bit_width(options.rows_max - 1))),
      post_scratch_(options.read_rows_max),
      take_scratch_(options.read_rows_max),
      taken_scratch_(options.read_rows_max) {
  ENGRAM_CHECK(options.read_rows_max >= 1 && options.read_rows_max <= kReadRowsMax);
  ENGRAM_CHECK(options.rows_max >= 1 && options.layer_count >= 1 && options.hedging.Valid());
  const uint64_t rows = uint64_t{options.slot_count} << row_bits_;
  ENGRAM_CHECK(rows < kNoRow);
  rows_ = std::make_unique<Row[]>(rows);
  next_ = std::make_unique_for_overwrite<uint32_t[]>(rows);
}

// ---- tickets

void ReadScheduler::Begin(uint32_t slot, MonotonicTime now, MonotonicTime deadline) {
  TicketState& ticket = tickets_[slot];
  ENGRAM_CHECK(!ticket.active);
  ticket.active = true;
  ++ticket.generation;
  ticket.layers_left = options_.layer_count;
  ticket.allowed = deadline - now;
  ticket.deadline = deadline;
  ticket.addresses = nullptr;
  ticket.row_count = 0;
  ticket.rows_stale = 0;
  for (int32_t i = 0; i < options_.layer_count; ++i) LayerOf(slot, i) = Layer{};
  if (replicated_) RateNodes(sessions_, &lanes_);
}

void ReadScheduler::End(uint32_t slot) {
  TicketState& ticket = tickets_[slot];
  if (!ticket.active) return;
  RemoveFromQueues(slot);
  ticket.active = false;
  ++ticket.generation;
}

void ReadScheduler::FinishLayer(uint32_t slot, int32_t layer_index) {
  TicketState& ticket = tickets_[slot];
  Layer& layer = LayerOf(slot, layer_index);
  layer.done = true;
  Status status;
  if (layer.first_failed != kNoRow) {
    status = FailureOf(slot, layer.first_failed, layer.rows_failed);
  }
  if (--ticket.layers_left == 0) {
    if (ticket.rows_stale != 0) RemoveFromQueues(slot);
    ticket.active = false;
    ++ticket.generation;
  }
  owner_->OnLayerDone(slot, layer_index, status, layer.rows_failed);
}

void ReadScheduler::Expire(uint32_t slot) {
  const TicketState& ticket = tickets_[slot];
  for (uint32_t row = 0; row < ticket.row_count; ++row) {
    const Row& state = rows_[Global(slot, row)];
    if (state.done != 0) continue;
    Layer& layer = LayerOf(slot, state.layer_index);
    ++layer.rows_failed;
    layer.first_failed = std::min(layer.first_failed, row);
  }
  RemoveFromQueues(slot);
  for (int32_t i = 0; i < options_.layer_count; ++i) {
    if (!LayerOf(slot, i).done) FinishLayer(slot, i);
  }
  ENGRAM_CHECK(!ticket.active);
}

void ReadScheduler::RemoveFromQueues(uint32_t slot) {
  const uint32_t first = Global(slot, 0);
  const uint32_t end = first + (1u << row_bits_);
  for (NodeLane& lane : lanes_) lane.waiting.RemoveRange(first, end, next_.get());
  for (DelayLevel& level : delays_) {
    level.rows.RemoveRange(first, end, next_.get());
    if (level.rows.empty()) level.due = MonotonicTime::max();
  }
  tickets_[slot].rows_stale = 0;
}

// ---- events

void ReadScheduler::SetMap(std::shared_ptr<const ShardMap> map, MonotonicTime now) {
  if (sessions_.map() != nullptr && map->epoch <= sessions_.epoch()) return;
  sessions_.SetMap(std::move(map), now);
  RerouteAll(now);
  LookAtLateReadsAgain(now);
  Pump(now);
}

void ReadScheduler::OnOpen(SessionId session, const SessionInfo& info, MonotonicTime now) {
  sessions_.OnOpen(session, info.way);
  const NodeIndex node = sessions_.NodeOf(session);
  if (replicated_ && node != kNoNode) {
    // Rows may wait for a replica that opens later, or never.
    RankNode(sessions_, node, &lanes_);
    RerouteWaiting(now);
    LookAtLateReadsAgain(now);
  }
  Pump(now);
}

void ReadScheduler::OnClosed(SessionId session, const Status& why, MonotonicTime now) {
  const NodeIndex node = sessions_.OnClosed(session, why, now);
  if (node == kNoNode) return;
  RankNode(sessions_, node, &lanes_);
  Reroute(&lanes_[node.value()].waiting, now);
  if (MapMayHelp(why.code())) owner_->OnMapWanted();
}

void ReadScheduler::OnEpoch(Epoch newest) {
  if (newest > sessions_.epoch()) owner_->OnMapWanted();
}

void ReadScheduler::Tick(MonotonicTime now) {
  for (uint32_t slot = 0; slot < tickets_.size(); ++slot) {
    if (tickets_[slot].active && tickets_[slot].deadline <= now) Expire(slot);
  }
  for (DelayLevel& level : delays_) {
    if (level.rows.empty() || level.due > now) continue;
    level.due = MonotonicTime::max();
    Reroute(&level.rows, now);
  }
  if (reads_in_flight_ > 0) {
    HedgeLateReads(now);
    CloseSilentSessions(now);
  }
  sessions_.Tick(now);
  Pump(now);
}

void ReadScheduler::CloseSilentSessions(MonotonicTime now) {
  for (Read& read : reads_) {
    if (!read.in_use || read.silent_at > now) continue;
    sessions_.Close(read.session);
    // Look again when the close has not ended it by then.
    read.silent_at = now + options_.read_silence_max;
    const NodeIndex node = NodeOf(read);
    if (node != kNoNode) RankNode(sessions_, node, &lanes_);
  }
}

MonotonicTime ReadScheduler::NextTick() const {
  MonotonicTime next = sessions_.NextTick();
  for (const TicketState& ticket : tickets_) {
    if (ticket.active) next = std::min(next, ticket.deadline);
  }
  for (const DelayLevel& level : delays_) next = std::min(next, level.due);
  if (reads_in_flight_ > 0) {
    for (const Read& read : reads_) {
      if (read.in_use) next = std::min({next, read.silent_at, read.late_at});
    }
  }
  return next;
}

}  // namespace engram
