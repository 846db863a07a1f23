// Reads that wait at a memory node: how many may wait, and which is answered next.
//
// Clients are served by turns, each by the rows it takes: self-clocked fair queueing (S. J.
// Golestani, "A self-clocked fair queueing scheme for broadband applications", INFOCOM 1994), so a
// small read goes before a large one that came with it, and a client that asks for little is never
// behind more than one read of a client that asks for much. Among one client's reads the one that
// is wanted soonest goes first. A client cannot gain by what it says it wants: that orders its own
// reads only.
//
// How many clients it is, is its own word. So clients belong to holders, which are not: n clients
// of one holder that wait have the turns of one together, each n times as seldom.
//
// Waiting room is divided by dynamic thresholds (A. K. Choudhury, E. L. Hahne, "Dynamic queue
// length thresholds for shared-memory packet switches", 1998): a holder may have as many rows
// waiting as are still free, and each client of it as many as are still free for its holder. One
// client alone takes a third of the room, the clients of one holder half of it, of two a third
// each; somebody new always finds some (ShareLeft).
#pragma once

#include <cstdint>
#include <vector>

#include "engram/base/clock.h"

namespace engram {

// Its owner keeps it from Push until Pop gave it.
struct QueuedRead {
  uint32_t rows = 0;
  MonotonicTime wanted_by = MonotonicTime::max();  // of no use later
  uint64_t came = 0;                               // the queue's
};

// What a client may still take of something where `free` are left, it has `own` and its holder's
// clients have `together`, its own included.
[[nodiscard]] constexpr uint64_t ShareLeft(uint64_t free, uint64_t together, uint64_t own) {
  const uint64_t of_holder = free > together ? free - together : 0;
  return of_holder > own ? of_holder - own : 0;
}

// What a holder's clients have together. Its owner keeps it as long as them.
class QueuedHolder {
 private:
  friend class ReadQueue;
  uint64_t rows_admitted_ = 0;
  uint32_t clients_waiting_ = 0;  // that have reads
};

// One client's reads that wait. Its owner keeps it while it has any, or is in the queue.
class QueuedClient {
 public:
  explicit QueuedClient(QueuedHolder* holder) : holder_(holder) {}
  [[nodiscard]] bool empty() const { return reads_.empty() && rows_admitted_ == 0; }

 private:
  friend class ReadQueue;
  static constexpr size_t kNowhere = ~size_t{0};

  QueuedHolder* const holder_;
  std::vector<QueuedRead*> reads_;  // the next to be answered last
  uint64_t rows_admitted_ = 0;      // of reads that wait, or whose addresses are on their way
  uint64_t start_ = 0;              // in virtual time: rows; when its next read may begin
  uint64_t finish_ = 0;             // what it is ordered by while it is in the heap
  size_t place_ = kNowhere;         // in the heap, or nowhere
  bool set_aside_ = false;
};

// Pure. Thread-compatible. Nothing allocates once the vectors have grown.
class ReadQueue {
 public:
  struct Options {
    // That may wait, of all clients together; every read counts as kReadCost rows more.
    uint64_t rows_max = 1u << 20;
    bool fair = true;  // false: in the order they came, to be compared with
  };
  explicit ReadQueue(const Options& options) : options_(options) {}

  // Takes waiting room for a read of `rows`. False: there is none for this client now.
  [[nodiscard]] bool Admit(QueuedClient* client, uint32_t rows);
  // Gives it back: the read ended before Push.
  void Forget(QueuedClient* client, uint32_t rows);
  // An admitted read may be answered from now on.
  void Push(QueuedClient* client, QueuedRead* read);

  // The client whose read is the next; null = none is, or all are set aside.
  [[nodiscard]] QueuedClient* Front() const { return heap_.empty() ? nullptr : heap_.front(); }
  // Takes the next read of the client, which must be Front().
  [[nodiscard]] QueuedRead* Pop(QueuedClient* client);
  // Front() cannot be answered now: others go before it until BringBack.
  void SetAside(QueuedClient* client);
  void BringBack();

  [[nodiscard]] uint64_t rows_waiting() const { return rows_admitted_; }

  // What a read costs, in rows, however few it has.
  static constexpr uint32_t kReadCost = 16;

 private:
  // Where the client belongs now that its first read, or its start, changed.
  void Order(QueuedClient* client);
  void Remove(QueuedClient* client);
  void Place(QueuedClient* client, size_t at);
  // In virtual time. The more clients of its holder wait, the longer.
  [[nodiscard]] static uint64_t LengthOf(const QueuedClient& client, uint32_t rows);

  const Options options_;
  std::vector<QueuedClient*> heap_;  // binary, the smallest finish first
  std::vector<QueuedClient*> set_aside_;
  uint64_t rows_admitted_ = 0;
  uint64_t now_ = 0;  // virtual time: the start of the read that was taken last
  uint64_t reads_pushed_ = 0;
};

}  // namespace engram
