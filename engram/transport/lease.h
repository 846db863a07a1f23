// Leases: until when a reader may use rows that it took from a node's memory by itself. Pure.
// The reader counts from sending its request, the node from receiving it, so that the reader's
// lease always ends first.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>

#include "engram/base/clock.h"
#include "engram/base/strong_id.h"

namespace engram {

// The reader's side: one session's lease. Thread-compatible.
class HeldLease {
 public:
  // A request goes out now. Returns its sequence number.
  [[nodiscard]] uint64_t StartRequest(MonotonicTime now);
  // A grant came. False when it answers no request of the last few: nothing changes then.
  bool Accept(uint64_t sequence, std::chrono::milliseconds lease);

  // Check after the rows were copied, before they are used.
  [[nodiscard]] bool ValidAt(MonotonicTime now) const { return now < end_; }

 private:
  static constexpr uint64_t kRemembered = 8;
  std::array<MonotonicTime, kRemembered> sent_{};  // [sequence % kRemembered]
  uint64_t last_sequence_ = 0;
  uint64_t last_accepted_ = 0;
  MonotonicTime end_ = MonotonicTime::min();
};

// What a reader without a slot directory tells of it: newer than any.
inline constexpr uint64_t kNoDirectory = ~uint64_t{0};

// What a reader says with a lease request. Neither ever goes back.
struct ReaderProgress {
  Epoch acknowledged;      // no read under an older shard map is in flight
  uint64_t directory = 0;  // nor one by an older slot directory: its generation
};

// The node's side: its sessions, what they said last, and every lease that it granted and that has
// not ended. A lease outlives its session: the reader may still be reading. Thread-safe.
class LeaseBook {
 public:
  // From now on the session counts: before it is given a slot directory.
  void Open(uint64_t session, TableVersion version, MonotonicTime now);
  // It asks no more; its lease runs on.
  void Close(uint64_t session);

  // A lease request came. True: a lease until `end` is granted. False: none is, because Require
  // asks for more progress, or `end` is MonotonicTime::min() (this node grants none); the
  // session's last lease runs on.
  [[nodiscard]] bool Renew(uint64_t session, const ReaderProgress& progress, MonotonicTime end);

  // True when no reader may still read, or ask here, under a map of `version` older than `epoch`:
  // every open session and every running lease has acknowledged it.
  [[nodiscard]] bool AllAcknowledged(TableVersion version, Epoch epoch, MonotonicTime now);

  // From now on the sessions of `version` that are in the book get leases only with this progress
  // at least. Those that open later were given a later directory. Returns a number for NoneBehind.
  [[nodiscard]] uint64_t Require(TableVersion version, const ReaderProgress& least);
  // True when of the sessions that Require asked, none has a lease that runs and less progress.
  [[nodiscard]] bool NoneBehind(TableVersion version, uint64_t required,
                                const ReaderProgress& least, MonotonicTime now);
  // Sessions, and running leases of sessions that have ended.
  [[nodiscard]] size_t size() const;

 private:
  struct Entry {
    TableVersion version;
    uint64_t number = 0;  // in the order of Open
    bool open = true;
    ReaderProgress progress;
    ReaderProgress least;                      // that Require asks of it
    MonotonicTime end = MonotonicTime::min();  // of its lease

    [[nodiscard]] bool Has(const ReaderProgress& wanted) const {
      return progress.acknowledged >= wanted.acknowledged && progress.directory >= wanted.directory;
    }
  };
  // Precondition: mutex_ is held.
  void Forget(MonotonicTime now);

  mutable std::mutex mutex_;
  std::map<uint64_t, Entry> entries_;  // by session; guarded by mutex_
  uint64_t opened_ = 0;                // guarded by mutex_
};

}  // namespace engram
