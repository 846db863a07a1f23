// What a session's answers say of its node: how near it is, how fast, and whether it hangs.
#pragma once

#include <algorithm>

#include "engram/base/clock.h"

namespace engram {

// A value, of one session: a node that was lost starts afresh.
struct NodeHealth {
  bool mapped = false;  // its memory is mapped here: the same host
  // A read of it was late enough to be asked of another replica too, and it has not answered since.
  bool late = false;
  bool suspected = false;  // late, and the other replica's answer came first
  MonotonicTime answered_at = MonotonicTime::min();
  Duration read_time{};  // of its reads, averaged; 0 = none has been answered yet

  // Something came. True if it was late or suspected until now.
  bool NoteAnswer(MonotonicTime now) {
    const bool cleared = late || suspected;
    late = false;
    suspected = false;
    answered_at = now;
    return cleared;
  }
  // Exponentially weighted, 1/8 for the newest (as TCP smooths its round trips, RFC 6298). A hang
  // of more than `took_max` says nothing of the speed.
  void NoteReadTime(Duration took, Duration took_max) {
    const Duration sample = std::clamp(took, Duration(1), took_max);
    read_time = read_time == Duration() ? sample : read_time + (sample - read_time) / 8;
  }
};

}  // namespace engram
