#include "client/read_scheduler.h"

#include <algorithm>
#include <bit>
#include <string>

#include "engram/base/check.h"

namespace engram {
namespace {

// What the caller of Await is told when a row's last answer was `code`.
StatusCode FinalCode(StatusCode code) {
  switch (code) {
    case StatusCode::kCorrupt:
    case StatusCode::kWrongModel:
    case StatusCode::kInvalidArgument:
    case StatusCode::kMalformed:
    case StatusCode::kInternal:
      return code;
    default:
      return StatusCode::kUnavailable;
  }
}

bool MapMayHelp(StatusCode code) {
  return code == StatusCode::kNotOwned || code == StatusCode::kWrongVersion ||
         code == StatusCode::kWrongIncarnation || code == StatusCode::kPeerLost ||
         code == StatusCode::kCorrupt;
}

}  // namespace

ReadScheduler::ReadScheduler(const SchedulerOptions& options, const TableLayout* layout,
                             RowReader* reader, ScheduledRows* owner)
    : options_(options),
      layout_(layout),
      owner_(owner),
      sessions_(options.sessions, reader),
      tickets_(options.slot_count),
      layers_(size_t{options.slot_count} * static_cast<size_t>(options.layer_count)),
      row_bits_(static_cast<uint32_t>(std::bit_width(options.rows_max - 1))),
      post_scratch_(options.read_rows_max),
      take_scratch_(options.read_rows_max),
      taken_scratch_(options.read_rows_max) {
  ENGRAM_CHECK(options.read_rows_max >= 1 && options.read_rows_max <= kReadRowsMax);
  ENGRAM_CHECK(options.rows_max >= 1 && options.layer_count >= 1);
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
  for (int32_t i = 0; i < options_.layer_count; ++i) LayerOf(slot, i) = Layer{};
}

void ReadScheduler::AddRows(uint32_t slot, int32_t layer_index, const RowAddress* addresses,
                            uint32_t first, uint32_t count) {
  TicketState& ticket = tickets_[slot];
  ENGRAM_CHECK(ticket.active && first == ticket.row_count && count >= first &&
               count <= options_.rows_max);
  ticket.addresses = addresses;
  ticket.row_count = count;
  Layer& layer = LayerOf(slot, layer_index);
  ENGRAM_CHECK(!layer.added);
  layer.added = true;
  layer.rows_left = count - first;
  if (layer.rows_left == 0) return FinishLayer(slot, layer_index);
  for (uint32_t row = first; row < count; ++row) {
    const uint32_t global = Global(slot, row);
    rows_[global] = Row{.phase = Phase::kWaiting, .layer_index = static_cast<uint8_t>(layer_index)};
    Route(global, MonotonicTime::min());
  }
}

void ReadScheduler::End(uint32_t slot) {
  TicketState& ticket = tickets_[slot];
  if (!ticket.active) return;
  RemoveFromQueues(slot);
  ticket.active = false;
  ++ticket.generation;
}

void ReadScheduler::FinishRow(uint32_t slot, int32_t layer_index) {
  if (--LayerOf(slot, layer_index).rows_left == 0) FinishLayer(slot, layer_index);
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
    ticket.active = false;
    ++ticket.generation;
  }
  owner_->OnLayerDone(slot, layer_index, status, layer.rows_failed);
}

void ReadScheduler::Expire(uint32_t slot) {
  const TicketState& ticket = tickets_[slot];
  for (uint32_t row = 0; row < ticket.row_count; ++row) {
    const Row& state = rows_[Global(slot, row)];
    if (state.phase == Phase::kDone) continue;
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
  for (RowQueue& queue : node_queues_) queue.RemoveRange(first, end, next_.get());
  for (DelayLevel& level : delays_) {
    level.rows.RemoveRange(first, end, next_.get());
    if (level.rows.empty()) level.due = MonotonicTime::max();
  }
}

Status ReadScheduler::FailureOf(uint32_t slot, uint32_t row, uint64_t rows_failed) const {
  const TicketState& ticket = tickets_[slot];
  const Row& state = rows_[Global(slot, row)];
  const RowAddress address = ticket.addresses[row];
  const RowPlace place = layout_->Place(address);
  const SlotIndex table_slot = layout_->SlotOf(address);
  const auto layer_id = layout_->spec().hash.layer_ids[static_cast<size_t>(place.layer_index)];
  std::string text = "row " + std::to_string(place.row.value()) + " of Engram layer " +
                     std::to_string(layer_id) + ": ";
  StatusCode code = StatusCode::kDeadlineExceeded;
  const ShardMap* map = sessions_.map();
  const NodeIndex node = map == nullptr ? kNoNode : map->Replicas(table_slot)[0];
  if (node == kNoNode) {
    code = StatusCode::kUnavailable;
    text += "no memory node holds slot " + std::to_string(table_slot.value());
  } else {
    const ShardMapNode& named = map->nodes[node.value()];
    const Status& trouble = sessions_.TroubleOf(node);
    text += "memory node " + named.id + " (" + named.address + ") ";
    if (state.last_error == StatusCode::kCorrupt) {
      code = StatusCode::kCorrupt;
      text += "sent bytes that fail the row's CRC";
    } else if (!trouble.ok()) {
      code = FinalCode(trouble.code());
      text += "cannot be read: " + trouble.ToString();
    } else if (state.last_error != StatusCode::kOk) {
      code = FinalCode(state.last_error);
      text += "answered " + std::string(StatusCodeName(state.last_error));
    } else if (state.phase == Phase::kInFlight) {
      text += "did not answer in time";
    } else {
      text += "was busy with earlier reads, or still connecting";
    }
  }
  const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(ticket.allowed);
  text += "; " + std::to_string(rows_failed) + " rows of this layer could not be had within " +
          std::to_string(waited.count()) + " ms, this one after " + std::to_string(state.attempts) +
          " failed attempts";
  return Status(code, std::move(text));
}

// ---- which node, when

void ReadScheduler::Route(uint32_t global, MonotonicTime now) {
  Row& row = rows_[global];
  row.phase = Phase::kWaiting;
  const ShardMap* map = sessions_.map();
  if (map == nullptr) return Delay(global, now);
  const std::span<const NodeIndex> replicas = map->Replicas(layout_->SlotOf(AddressOf(global)));
  uint32_t count = 0;
  while (count < replicas.size() && replicas[count] != kNoNode) ++count;
  if (count == 0) return Delay(global, now);
  const uint32_t first = row.attempts % count;
  NodeIndex chosen = replicas[first];
  for (uint32_t i = 0; i < count; ++i) {
    const NodeIndex node = replicas[(first + i) % count];
    if (sessions_.IsOpen(node)) {
      chosen = node;
      break;
    }
  }
  node_queues_[chosen.value()].PushBack(global, next_.get());
}

void ReadScheduler::Delay(uint32_t global, MonotonicTime now) {
  const uint32_t attempts = rows_[global].attempts;
  const uint32_t place = std::min(attempts == 0 ? 0 : attempts - 1, kDelayLevels - 1);
  DelayLevel& level = delays_[place];
  // Rows that join later leave with the first: a shorter pause than theirs, never a longer one.
  if (level.rows.empty()) {
    level.due = now == MonotonicTime::min() ? now : now + options_.retry_delay_min * (1 << place);
  }
  rows_[global].phase = Phase::kWaiting;
  level.rows.PushBack(global, next_.get());
}

void ReadScheduler::FailRow(uint32_t global, StatusCode code, MonotonicTime now) {
  Row& row = rows_[global];
  if (code == StatusCode::kCancelled) return Route(global, now);  // we closed the session
  row.last_error = code;
  if (row.attempts < UINT8_MAX) ++row.attempts;
  if (code == StatusCode::kInvalidArgument) {  // asking again changes nothing
    const uint32_t slot = global >> row_bits_;
    Layer& layer = LayerOf(slot, row.layer_index);
    ++layer.rows_failed;
    layer.first_failed = std::min(layer.first_failed, RowOf(global));
    row.phase = Phase::kDone;
    return FinishRow(slot, row.layer_index);
  }
  const ShardMap* map = sessions_.map();
  if (map != nullptr && row.attempts < map->replica_count) return Route(global, now);
  Delay(global, now);
}

void ReadScheduler::Reroute(RowQueue* queue, MonotonicTime now) {
  RowQueue rows = *queue;
  *queue = RowQueue();
  while (!rows.empty()) Route(rows.PopFront(next_.get()), now);
}

void ReadScheduler::RerouteAll(MonotonicTime now) {
  std::vector<RowQueue> before(sessions_.node_count());
  before.swap(node_queues_);
  for (RowQueue& queue : before) Reroute(&queue, now);
  for (DelayLevel& level : delays_) {
    level.due = MonotonicTime::max();
    Reroute(&level.rows, now);
  }
}

void ReadScheduler::Pump(MonotonicTime now) {
  for (uint32_t i = 0; i < node_queues_.size(); ++i) {
    if (!node_queues_[i].empty()) PumpNode(NodeIndex(i), now);
  }
}

uint32_t ReadScheduler::FillRead(RowQueue* queue, Read* read) {
  // Even parts: the last read of a batch is not a tiny one.
  const uint32_t parts = (queue->count() + options_.read_rows_max - 1) / options_.read_rows_max;
  const uint32_t rows_wanted = (queue->count() + parts - 1) / parts;
  read->slot = queue->front() >> row_bits_;
  const uint32_t first = Global(read->slot, 0);
  const uint8_t layer_index = rows_[queue->front()].layer_index;
  uint32_t count = 0;
  while (!queue->empty() && count < rows_wanted) {
    const uint32_t global = queue->front();
    if (global >> row_bits_ != read->slot) break;
    if (count >= options_.layer_rows_min && rows_[global].layer_index != layer_index) break;
    (void)queue->PopFront(next_.get());
    post_scratch_[count] = AddressOf(global);
    read->rows[count++] = global - first;
  }
  read->count = count;
  return count;
}

void ReadScheduler::PumpNode(NodeIndex node, MonotonicTime now) {
  RowQueue& queue = node_queues_[node.value()];
  while (!queue.empty() && sessions_.CanPost(node)) {
    const uint32_t read_index = FreeRead();
    Read& read = reads_[read_index];
    const uint32_t count = FillRead(&queue, &read);
    const uint64_t tag = (uint64_t{read.generation} << 32) | read_index;
    const StatusCode code =
        sessions_.Post(node, tag, std::span(post_scratch_.data(), count), &read.session);
    if (code == StatusCode::kOk) {
      read.node = node.value();
      read.epoch = sessions_.epoch();
      read.posted_at = now;
      read.retried = false;
      read.ticket_generation = tickets_[read.slot].generation;
      for (uint32_t i = 0; i < count; ++i) {
        rows_[Global(read.slot, read.rows[i])].phase = Phase::kInFlight;
      }
      continue;
    }
    const uint32_t slot = read.slot;
    if (code == StatusCode::kResourceExhausted || code == StatusCode::kPeerLost) {
      for (uint32_t i = count; i > 0; --i) {
        queue.PushFront(Global(slot, read.rows[i - 1]), next_.get());
      }
      EndRead(read_index);
      return;
    }
    for (uint32_t i = 0; i < count; ++i) FailRow(Global(slot, read.rows[i]), code, now);
    EndRead(read_index);
    return;
  }
}

uint32_t ReadScheduler::FreeRead() {
  if (free_reads_.empty()) {
    Read& fresh = reads_.emplace_back();
    fresh.rows = std::make_unique<uint32_t[]>(options_.read_rows_max);
    free_reads_.reserve(reads_.capacity());
    free_reads_.push_back(static_cast<uint32_t>(reads_.size() - 1));
  }
  const uint32_t index = free_reads_.back();
  free_reads_.pop_back();
  Read& read = reads_[index];
  read.in_use = true;
  ++read.generation;
  ++reads_in_flight_;
  return index;
}

void ReadScheduler::EndRead(uint32_t read_index) {
  reads_[read_index].in_use = false;
  --reads_in_flight_;
  free_reads_.push_back(read_index);
}

ReadScheduler::Read* ReadScheduler::FindRead(uint64_t tag) {
  const auto index = static_cast<uint32_t>(tag);
  if (index >= reads_.size()) return nullptr;
  Read& read = reads_[index];
  return read.in_use && read.generation == tag >> 32 ? &read : nullptr;
}

// ---- events

void ReadScheduler::SetMap(std::shared_ptr<const ShardMap> map, MonotonicTime now) {
  if (sessions_.map() != nullptr && map->epoch <= sessions_.epoch()) return;
  sessions_.SetMap(std::move(map), now);
  RerouteAll(now);
  Pump(now);
}

void ReadScheduler::OnOpen(SessionId session, const SessionInfo& /*info*/, MonotonicTime now) {
  sessions_.OnOpen(session);
  Pump(now);
}

void ReadScheduler::OnClosed(SessionId session, const Status& why, MonotonicTime now) {
  const NodeIndex node = sessions_.OnClosed(session, why, now);
  if (node == kNoNode) return;
  Reroute(&node_queues_[node.value()], now);
  if (MapMayHelp(why.code())) owner_->OnMapWanted();
}

void ReadScheduler::OnEpoch(Epoch newest) {
  if (newest > sessions_.epoch()) owner_->OnMapWanted();
}

void ReadScheduler::TakeChunk(Read* read, const RowChunk& chunk, uint32_t first, uint32_t count,
                              MonotonicTime now) {
  const uint32_t slot = read->slot;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t& row = read->rows[chunk.first + first + i];
    const bool wanted = row != kNoRow && rows_[Global(slot, row)].phase == Phase::kInFlight;
    take_scratch_[i] = wanted ? row : kNoRow;
    row = kNoRow;
  }
  owner_->TakeRows(slot, std::span(take_scratch_.data(), count),
                   chunk.rows + size_t{first} * layout_->row_stride(), taken_scratch_.data());
  for (uint32_t i = 0; i < count; ++i) {
    if (take_scratch_[i] == kNoRow) continue;
    const uint32_t global = Global(slot, take_scratch_[i]);
    if (taken_scratch_[i] != 0) {
      rows_[global].phase = Phase::kDone;
      FinishRow(slot, rows_[global].layer_index);
      continue;
    }
    const SlotIndex table_slot = layout_->SlotOf(AddressOf(global));
    if (read->node < sessions_.node_count() && read->epoch == sessions_.epoch()) {
      owner_->OnRowWrong(table_slot, sessions_.map()->nodes[read->node]);
    }
    read->retried = true;
    FailRow(global, StatusCode::kCorrupt, now);
  }
}

void ReadScheduler::OnRows(uint64_t tag, const RowChunk& chunk, MonotonicTime now) {
  Read* read = FindRead(tag);
  if (read == nullptr) return;
  ENGRAM_CHECK(uint64_t{chunk.first} + chunk.count <= read->count);
  const TicketState& ticket = tickets_[read->slot];
  // A late reply to an abandoned ticket: its buffer may hold another batch by now.
  if (!ticket.active || ticket.generation != read->ticket_generation) return;
  if (chunk.statuses == nullptr) return TakeChunk(read, chunk, 0, chunk.count, now);
  bool map_wanted = false;
  for (uint32_t i = 0; i < chunk.count;) {
    uint32_t end = i;
    while (end < chunk.count && chunk.statuses[end] == StatusCode::kOk) ++end;
    if (end > i) TakeChunk(read, chunk, i, end - i, now);
    if (end < chunk.count) {
      uint32_t& row = read->rows[chunk.first + end];
      if (row != kNoRow && rows_[Global(read->slot, row)].phase == Phase::kInFlight) {
        const uint32_t global = Global(read->slot, row);
        row = kNoRow;
        read->retried = true;
        map_wanted = map_wanted || MapMayHelp(chunk.statuses[end]);
        FailRow(global, chunk.statuses[end], now);
      }
      ++end;
    }
    i = end;
  }
  if (map_wanted) owner_->OnMapWanted();
}

void ReadScheduler::OnReadDone(uint64_t tag, StatusCode status, MonotonicTime now) {
  Read* read = FindRead(tag);
  if (read == nullptr) return;
  sessions_.OnReadDone(read->session, read->epoch);
  const TicketState& ticket = tickets_[read->slot];
  if (ticket.active && ticket.generation == read->ticket_generation) {
    const StatusCode why = status == StatusCode::kOk ? StatusCode::kMalformed : status;
    for (uint32_t i = 0; i < read->count; ++i) {
      const uint32_t row = read->rows[i];
      if (row == kNoRow || rows_[Global(read->slot, row)].phase != Phase::kInFlight) continue;
      read->retried = true;
      FailRow(Global(read->slot, row), why, now);
    }
  }
  if (read->retried) owner_->OnReadRetried();
  if (read->retried && MapMayHelp(status)) owner_->OnMapWanted();
  EndRead(static_cast<uint32_t>(tag));
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
  if (reads_in_flight_ > 0) CloseSilentSessions(now);
  sessions_.Tick(now);
  Pump(now);
}

void ReadScheduler::CloseSilentSessions(MonotonicTime now) {
  for (Read& read : reads_) {
    if (read.in_use && read.posted_at + options_.read_silence_max <= now) {
      sessions_.Close(read.session);
      read.posted_at = now;  // look again when the close has not ended it by then
    }
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
      if (read.in_use) next = std::min(next, read.posted_at + options_.read_silence_max);
    }
  }
  return next;
}

}  // namespace engram
