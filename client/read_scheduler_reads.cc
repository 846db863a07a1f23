// ReadScheduler: posting reads and taking their replies.
#include <algorithm>
#include <utility>

#include "client/read_scheduler.h"
#include "engram/base/check.h"

namespace engram {

void ReadScheduler::Pump(MonotonicTime now) {
  for (uint32_t i = 0; i < lanes_.size(); ++i) {
    if (!lanes_[i].waiting.empty()) PumpNode(NodeIndex(i), now);
  }
}

uint32_t ReadScheduler::FillRead(RowQueue* queue, Read* read) {
  // Even parts: the last read of a batch is not a tiny one.
  const uint32_t parts = (queue->count() + options_.read_rows_max - 1) / options_.read_rows_max;
  const uint32_t rows_wanted = (queue->count() + parts - 1) / parts;
  uint32_t first = 0;
  uint8_t layer_index = 0;
  uint32_t count = 0;
  while (!queue->empty() && count < rows_wanted) {
    const uint32_t global = queue->front();
    Row& row = rows_[global];
    if (row.done != 0) {  // a hedge that is no longer needed
      (void)queue->PopFront(next_.get());
      row.queued = 0;
      --tickets_[global >> row_bits_].rows_stale;
      continue;
    }
    if (count == 0) {
      read->slot = global >> row_bits_;
      first = Global(read->slot, 0);
      layer_index = row.layer_index;
    }
    if (global >> row_bits_ != read->slot) break;
    if (count >= options_.layer_rows_min && row.layer_index != layer_index) break;
    (void)queue->PopFront(next_.get());
    row.queued = 0;
    ++row.copies;
    post_scratch_[count] = AddressOf(global);
    read->rows[count++] = global - first;
  }
  read->count = count;
  return count;
}

void ReadScheduler::PumpNode(NodeIndex node, MonotonicTime now) {
  NodeLane& lane = lanes_[node.value()];
  while (!lane.waiting.empty() && sessions_.CanPost(node)) {
    const uint32_t read_index = FreeRead();
    Read& read = reads_[read_index];
    const uint32_t count = FillRead(&lane.waiting, &read);
    if (count == 0) return EndRead(read_index);
    const uint64_t tag = (uint64_t{read.generation} << 32) | read_index;
    const StatusCode code = sessions_.Post(node, tag, std::span(post_scratch_.data(), count),
                                           tickets_[read.slot].deadline, &read.session);
    if (code == StatusCode::kOk) {
      NotePosted(&read, node, now);
      continue;
    }
    const uint32_t slot = read.slot;
    if (code == StatusCode::kResourceExhausted || code == StatusCode::kPeerLost) {
      for (uint32_t i = count; i > 0; --i) {
        const uint32_t global = Global(slot, read.rows[i - 1]);
        rows_[global].queued = 1;
        --rows_[global].copies;
        lane.waiting.PushFront(global, next_.get());
      }
      if (code == StatusCode::kPeerLost) {
        RankNode(sessions_, node, &lanes_);
        if (replicated_) Reroute(&lane.waiting, now);
      }
      return EndRead(read_index);
    }
    for (uint32_t i = 0; i < count; ++i) {
      if (LetGo(slot, read.rows[i])) (void)FailRow(Global(slot, read.rows[i]), code, node, now);
    }
    return EndRead(read_index);
  }
}

void ReadScheduler::NotePosted(Read* read, NodeIndex node, MonotonicTime now) {
  read->node = node.value();
  read->epoch = sessions_.epoch();
  read->posted_at = now;
  read->silent_at = now + options_.read_silence_max;
  read->late_at = MonotonicTime::max();
  read->retried = false;
  read->hedged = false;
  read->hedge_won = false;
  read->excused = false;
  read->ticket_generation = tickets_[read->slot].generation;
  lanes_[node.value()].rows_in_flight += read->count;
  if (!replicated_) return;
  hedging_.OnReadPosted();
  if (hedging_.enabled()) read->late_at = now + hedging_.LateAfter(read->count);
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

void ReadScheduler::MarkDone(uint32_t global) {
  Row& row = rows_[global];
  if (row.done != 0) return;
  row.done = 1;
  // A hedge that was not posted yet. It is taken out of its queue when its turn comes, or with the
  // last row of its ticket: unlinking it now would walk the queue.
  if (row.queued != 0) ++tickets_[global >> row_bits_].rows_stale;
}

void ReadScheduler::FinishRows(uint32_t slot, int32_t layer_index, uint32_t count) {
  uint32_t& rows_left = LayerOf(slot, layer_index).rows_left;
  rows_left -= count;
  if (rows_left == 0) FinishLayer(slot, layer_index);
}

void ReadScheduler::TakeChunk(Read* read, const RowChunk& chunk, uint32_t first, uint32_t count,
                              MonotonicTime now) {
  const uint32_t slot = read->slot;
  const NodeIndex node = NodeOf(*read);
  bool shared = false;  // with another read in flight
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t& row = read->rows[chunk.first + first + i];
    take_scratch_[i] = row != kNoRow && LetGo(slot, row) ? row : kNoRow;
    shared = shared || (row != kNoRow && rows_[Global(slot, row)].copies != 0);
    row = kNoRow;
  }
  owner_->TakeRows(slot, std::span(take_scratch_.data(), count),
                   chunk.rows + size_t{first} * layout_->row_stride(), taken_scratch_.data());
  // Before the last row ends the ticket, and with it what its reads say.
  if (shared) NoteHedgesWon(slot, std::span(take_scratch_.data(), count), now);
  // Rows done of the layer at hand: told together, for a layer's rows come together.
  uint32_t finished = 0;
  int32_t layer_index = 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (take_scratch_[i] == kNoRow) continue;
    const uint32_t global = Global(slot, take_scratch_[i]);
    if (taken_scratch_[i] != 0) {
      MarkDone(global);
      if (finished != 0 && rows_[global].layer_index != layer_index) {
        FinishRows(slot, layer_index, std::exchange(finished, 0));
      }
      layer_index = rows_[global].layer_index;
      ++finished;
      continue;
    }
    const SlotIndex table_slot = layout_->SlotOf(AddressOf(global));
    if (read->node < sessions_.node_count() && read->epoch == sessions_.epoch()) {
      owner_->OnRowWrong(table_slot, sessions_.map()->nodes[read->node]);
    }
    if (FailRow(global, StatusCode::kCorrupt, node, now)) read->retried = true;
  }
  if (finished != 0) FinishRows(slot, layer_index, finished);
}

void ReadScheduler::OnRows(uint64_t tag, const RowChunk& chunk, MonotonicTime now) {
  Read* read = FindRead(tag);
  if (read == nullptr) return;
  ENGRAM_CHECK(uint64_t{chunk.first} + chunk.count <= read->count);
  if (replicated_) NoteAnswer(NodeOf(*read), now);
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
      if (row != kNoRow && LetGo(read->slot, row)) {
        map_wanted = map_wanted || MapMayHelp(chunk.statuses[end]);
        const StatusCode code = chunk.statuses[end];
        if (FailRow(Global(read->slot, row), code, NodeOf(*read), now)) read->retried = true;
      }
      row = kNoRow;
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
  const NodeIndex node = NodeOf(*read);
  if (node != kNoNode) lanes_[node.value()].rows_in_flight -= read->count;
  if (replicated_ && status == StatusCode::kOk) NoteReadTime(*read, node, now);
  const TicketState& ticket = tickets_[read->slot];
  const StatusCode why = status == StatusCode::kOk ? StatusCode::kMalformed : status;
  for (uint32_t i = 0; i < read->count; ++i) {
    // The ticket may end within.
    if (!ticket.active || ticket.generation != read->ticket_generation) break;
    const uint32_t row = read->rows[i];
    if (row == kNoRow || !LetGo(read->slot, row)) continue;
    if (FailRow(Global(read->slot, row), why, node, now)) read->retried = true;
  }
  if (read->retried) owner_->OnReadRetried();
  if (read->retried && MapMayHelp(status)) owner_->OnMapWanted();
  EndRead(static_cast<uint32_t>(tag));
}

void ReadScheduler::NoteReadTime(const Read& read, NodeIndex node, MonotonicTime now) {
  const Duration took = now - read.posted_at;
  hedging_.OnReadAnswered(read.count, took);
  if (node == kNoNode) return;
  NoteAnswer(node, now);
  sessions_.health(node).NoteReadTime(took, options_.hedging.late_max);
}

}  // namespace engram
