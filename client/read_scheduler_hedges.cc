// ReadScheduler: reads that are late are asked of another replica too, and nodes that hang are
// avoided (docs/decisions/0016-hedged-reads.md).
#include <algorithm>

#include "client/read_scheduler.h"

namespace engram {
namespace {

// Who was not called for this long cannot say who is late: the answer may be waiting to be read.
constexpr Duration kTickOverdueMax = std::chrono::milliseconds(10);

}  // namespace

void ReadScheduler::HedgeLateReads(MonotonicTime now) {
  for (Read& read : reads_) {
    if (!read.in_use || read.late_at > now) continue;
    if (!read.excused && now - read.late_at > kTickOverdueMax) {
      read.excused = true;
      read.late_at = now + options_.hedging.late_min;
      continue;
    }
    HedgeRead(&read, now);
  }
}

void ReadScheduler::HedgeRead(Read* read, MonotonicTime now) {
  const TicketState& ticket = tickets_[read->slot];
  if (!replicated_ || !ticket.active || ticket.generation != read->ticket_generation) {
    read->late_at = MonotonicTime::max();
    return;
  }
  // Again when it is twice as old: the other replica may fail, or none may be open now.
  read->late_at = now + std::max(now - read->posted_at, options_.hedging.late_min);
  const NodeIndex node = NodeOf(*read);
  // Against a node that hangs there is no budget: every read of it will be late.
  bool hangs = node == kNoNode;
  if (node != kNoNode) {
    const NodeHealth& health = sessions_.health(node);
    const MonotonicTime hangs_at =
        std::max(read->posted_at, health.answered_at) + hedging_.HangsAfter(read->count);
    hangs = health.suspected || hangs_at <= now;
    if (!hangs) read->late_at = std::min(read->late_at, hangs_at);
  }
  if (!hangs && !hedging_.MayHedge()) return;
  if (!AskElsewhere(*read, node)) return;
  if (!hangs) hedging_.SpendHedge();
  if (node != kNoNode) {
    sessions_.health(node).late = true;
    lanes_[node.value()].late = true;
  }
  if (read->hedged) return;
  read->hedged = true;
  owner_->OnReadHedged();
}

bool ReadScheduler::AskElsewhere(const Read& read, NodeIndex node) {
  const uint32_t copies_max = sessions_.map()->replica_count;
  bool any = false;
  // Backwards to the front of the queues: in order, and before rows that are not late.
  for (uint32_t i = read.count; i-- > 0;) {
    if (read.rows[i] == kNoRow) continue;
    const uint32_t global = Global(read.slot, read.rows[i]);
    Row& row = rows_[global];
    if (row.done != 0 || row.queued != 0 || row.copies >= copies_max) continue;
    const std::span<const NodeIndex> replicas = ReplicasOf(global);
    uint32_t left_out = 0;
    for (uint32_t r = 0; r < replicas.size() && replicas[r] != kNoNode; ++r) {
      const NodeLane& lane = lanes_[replicas[r].value()];
      if (replicas[r] == node || lane.late || lane.rank >= kRankSuspected) left_out |= 1u << r;
    }
    const NodeIndex other = ChooseReplica(replicas, left_out, lanes_);
    if (other == kNoNode) continue;
    row.queued = 1;
    lanes_[other.value()].waiting.PushFront(global, next_.get());
    any = true;
  }
  return any;
}

void ReadScheduler::NoteHedgesWon(uint32_t slot, std::span<const uint32_t> rows,
                                  MonotonicTime now) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] != kNoRow && taken_scratch_[i] != 0) MarkDone(Global(slot, rows[i]));
  }
  for (Read& read : reads_) {
    if (!read.in_use || !read.hedged || read.hedge_won || read.slot != slot ||
        read.ticket_generation != tickets_[slot].generation) {
      continue;
    }
    // A row that this read brought itself is not in its list any more.
    const bool lost = std::any_of(read.rows.get(), read.rows.get() + read.count, [&](uint32_t row) {
      return row != kNoRow && rows_[Global(slot, row)].done != 0;
    });
    if (!lost) continue;
    read.hedge_won = true;
    owner_->OnHedgeWon();
    const NodeIndex node = NodeOf(read);
    if (node != kNoNode && sessions_.health(node).late) Suspect(node, now);
  }
}

void ReadScheduler::Suspect(NodeIndex node, MonotonicTime now) {
  NodeHealth& health = sessions_.health(node);
  if (health.suspected) return;
  health.suspected = true;
  RankNode(sessions_, node, &lanes_);
  // Its reads in flight are the probe: their answer, or their session's end, clears it.
  for (Read& read : reads_) {
    if (read.in_use && NodeOf(read) == node) read.late_at = now;
  }
  Reroute(&lanes_[node.value()].waiting, now);
}

void ReadScheduler::NoteAnswer(NodeIndex node, MonotonicTime now) {
  if (node == kNoNode) return;
  if (sessions_.health(node).NoteAnswer(now)) RankNode(sessions_, node, &lanes_);
}

void ReadScheduler::LookAtLateReadsAgain(MonotonicTime now) {
  for (Read& read : reads_) {
    if (!read.in_use) continue;
    read.late_at = replicated_ && hedging_.enabled()
                       ? std::max(now, read.posted_at + hedging_.LateAfter(read.count))
                       : MonotonicTime::max();
  }
}

}  // namespace engram
