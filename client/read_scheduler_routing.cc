// ReadScheduler: which node to ask for a row, when, and what to say when no one gave it.
#include <algorithm>
#include <string>

#include "client/read_scheduler.h"
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
    case StatusCode::kResourceExhausted:
      return code;
    default:
      return StatusCode::kUnavailable;
  }
}

}  // namespace

NodeIndex ReadScheduler::ChooseNode(uint32_t global) {
  if (sessions_.map() == nullptr) return kNoNode;
  const std::span<const NodeIndex> replicas = ReplicasOf(global);
  if (!replicated_) return replicas[0];
  Row& row = rows_[global];
  if (row.tried != 0) {
    const NodeIndex untried = ChooseReplica(replicas, row.tried, lanes_);
    if (untried != kNoNode && lanes_[untried.value()].rank < kRankClosed) return untried;
    row.tried = 0;
  }
  return ChooseReplica(replicas, 0, lanes_);
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
  const ShardMap* const map = sessions_.map();
  // Without a choice of replicas there is nothing to weigh for each row.
  const NodeIndex* const owners = map == nullptr || replicated_ ? nullptr : map->owners.data();
  const Row fresh{.done = 0, .layer_index = static_cast<uint8_t>(layer_index)};
  for (uint32_t row = first; row < count; ++row) {
    const uint32_t global = Global(slot, row);
    rows_[global] = fresh;
    const NodeIndex node =
        owners == nullptr ? ChooseNode(global) : owners[layout_->SlotOf(addresses[row]).value()];
    RouteTo(node, global, MonotonicTime::min());
  }
}

void ReadScheduler::Delay(uint32_t global, MonotonicTime now) {
  const uint32_t attempts = rows_[global].attempts;
  const uint32_t place = std::min(attempts == 0 ? 0 : attempts - 1, kDelayLevels - 1);
  DelayLevel& level = delays_[place];
  // Rows that join later leave with the first: a shorter pause than theirs, never a longer one.
  if (level.rows.empty()) {
    level.due = now == MonotonicTime::min() ? now : now + options_.retry_delay_min * (1 << place);
  }
  rows_[global].queued = 1;
  level.rows.PushBack(global, next_.get());
}

bool ReadScheduler::FailRow(uint32_t global, StatusCode code, NodeIndex node, MonotonicTime now) {
  Row& row = rows_[global];
  const bool held_elsewhere = row.queued != 0 || row.copies != 0;
  if (code == StatusCode::kCancelled) {  // we closed the session
    if (!held_elsewhere) Route(global, now);
    return !held_elsewhere;
  }
  row.last_error = code;
  if (row.attempts < UINT8_MAX) ++row.attempts;
  if (code == StatusCode::kInvalidArgument) {  // asking again changes nothing
    const uint32_t slot = global >> row_bits_;
    Layer& layer = LayerOf(slot, row.layer_index);
    ++layer.rows_failed;
    layer.first_failed = std::min(layer.first_failed, RowOf(global));
    MarkDone(global);
    FinishRows(slot, row.layer_index, 1);
    return true;
  }
  NoteTried(global, node);
  if (held_elsewhere) return false;
  const ShardMap* map = sessions_.map();
  if (map != nullptr && row.attempts < map->replica_count) {
    Route(global, now);
  } else {
    Delay(global, now);
  }
  return true;
}

void ReadScheduler::NoteTried(uint32_t global, NodeIndex node) {
  if (!replicated_ || node == kNoNode) return;
  const std::span<const NodeIndex> replicas = ReplicasOf(global);
  for (size_t i = 0; i < replicas.size(); ++i) {
    if (replicas[i] == node) rows_[global].tried |= static_cast<uint8_t>(1u << i);
  }
}

void ReadScheduler::Reroute(RowQueue* queue, MonotonicTime now) {
  RowQueue rows = *queue;
  *queue = RowQueue();
  while (!rows.empty()) {
    const uint32_t global = rows.PopFront(next_.get());
    Row& row = rows_[global];
    row.queued = 0;
    if (row.done != 0) {
      --tickets_[global >> row_bits_].rows_stale;
    } else if (row.copies == 0) {
      Route(global, now);
    }
    // Else a hedge: the read that holds the row is looked at again by and by.
  }
}

void ReadScheduler::RerouteWaiting(MonotonicTime now) {
  // Rows that are put back into a lane further on are looked at twice: they stay.
  for (NodeLane& lane : lanes_) {
    if (!lane.waiting.empty()) Reroute(&lane.waiting, now);
  }
}

void ReadScheduler::ResetLanes() {
  const ShardMap& map = *sessions_.map();
  replicated_ = map.replica_count > 1;
  lanes_.assign(map.nodes.size(), NodeLane());
  for (uint32_t i = 0; i < lanes_.size(); ++i) {
    lanes_[i].same_zone = !options_.zone.empty() && map.nodes[i].zone == options_.zone;
  }
  for (const Read& read : reads_) {
    if (!read.in_use) continue;
    const NodeIndex node = NodeOf(read);
    if (node != kNoNode) lanes_[node.value()].rows_in_flight += read.count;
  }
  RateNodes(sessions_, &lanes_);
}

void ReadScheduler::RerouteAll(MonotonicTime now) {
  std::vector<NodeLane> before = std::move(lanes_);
  ResetLanes();
  for (NodeLane& lane : before) Reroute(&lane.waiting, now);
  for (DelayLevel& level : delays_) {
    level.due = MonotonicTime::max();
    Reroute(&level.rows, now);
  }
}

bool ReadScheduler::MapMayHelp(StatusCode code) {
  return code == StatusCode::kNotOwned || code == StatusCode::kWrongVersion ||
         code == StatusCode::kWrongIncarnation || code == StatusCode::kPeerLost ||
         code == StatusCode::kCorrupt;
}

std::string ReadScheduler::OtherReplicaText(SlotIndex table_slot, uint32_t replica) const {
  const NodeIndex node = sessions_.map()->Replicas(table_slot)[replica];
  if (node == kNoNode) return "";
  const Status& trouble = sessions_.TroubleOf(node);
  return "; nor did replica " + sessions_.map()->nodes[node.value()].id + " give it" +
         (trouble.ok() ? "" : " (" + trouble.ToString() + ")");
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
  const uint32_t replica_count = map == nullptr ? 0 : map->replica_count;
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
      if (state.last_error == StatusCode::kResourceExhausted) {
        text += " (its readers ask for more than it can send: see engram_node_reads_refused_total)";
      }
    } else if (state.copies != 0) {
      text += "did not answer in time";
    } else {
      text += "was busy with earlier reads, or still connecting";
    }
    for (uint32_t i = 1; i < replica_count; ++i) text += OtherReplicaText(table_slot, i);
  }
  const auto waited = std::chrono::duration_cast<std::chrono::milliseconds>(ticket.allowed);
  text += "; " + std::to_string(rows_failed) + " rows of this layer could not be had within " +
          std::to_string(waited.count()) + " ms, this one after " + std::to_string(state.attempts) +
          " failed attempts";
  return Status(code, std::move(text));
}

}  // namespace engram
