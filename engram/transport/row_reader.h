// The client's side of a transport: batched reads of stored rows from memory nodes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"
#include "engram/transport/read_way.h"

namespace engram {

inline constexpr uint32_t kReadRowsMax = 4096;     // rows in one Post
inline constexpr uint32_t kReadsInFlightMax = 64;  // reads in flight on one session

// One session: one reader's connection to one incarnation of one node, for one table version.
// Never reused within a reader.
using SessionId = StrongId<struct SessionIdTag, uint64_t>;

struct NodeTarget {
  std::string address;  // "host:port" of the node's data service
  TableVersion version;
  ModelIdentity identity{};
  uint32_t row_stride = 0;  // as the layout says; a node that differs is refused
  uint32_t slot_shift = 0;
  uint32_t slot_count = 0;
  Incarnation incarnation;  // wanted; 0 = whichever answers
};

struct SessionInfo {
  Incarnation incarnation;
  ReadWay way = ReadWay::kGather;  // taken
  std::string reason;              // why this way, and why not the others: for the log
};

// Rows that arrived. Valid only during OnRows.
struct RowChunk {
  uint32_t first = 0;  // place of rows[0] in the posted list
  uint32_t count = 0;
  const std::byte* rows = nullptr;       // [count][row_stride] as stored, NOT yet verified
  const StatusCode* statuses = nullptr;  // [count]; null = all kOk; a row not kOk has no bytes
  bool landed = false;                   // `rows` is LandingMemory: not for the host to look at
};

// What a reader tells. All calls come on the thread that is in Progress(), never from Post().
class ReaderEvents {
 public:
  virtual ~ReaderEvents() = default;
  virtual void OnOpen(SessionId session, const SessionInfo& info) = 0;
  // The session ended, or never opened (kWrongModel, kWrongVersion, kWrongIncarnation, kPeerLost,
  // kUnavailable, ...). Every read of it has had its OnReadDone before. Last call for it.
  virtual void OnClosed(SessionId session, const Status& why) = 0;
  // Every posted row comes exactly once, in chunks in any order, before OnReadDone with kOk.
  virtual void OnRows(uint64_t tag, const RowChunk& chunk) = 0;
  // kOk, or why the rows that did not come will not come.
  virtual void OnReadDone(uint64_t tag, StatusCode status) = 0;
  // A node says that a newer shard map than acknowledged exists.
  virtual void OnEpoch(SessionId session, Epoch newest) = 0;
  // A node has no room for more reads: ask it again no sooner than `retry_after` from now. Told
  // before the OnReadDone, with kResourceExhausted, of the read that it refused.
  virtual void OnBusy(SessionId session, Duration retry_after) = 0;
};

// Thread-compatible: one thread at a time drives a reader, except Wake(). Nothing allocates per
// read after the first reads of each size.
class RowReader {
 public:
  // Ends what is open, without events. May wait up to 2 s for nodes that have not answered a
  // session's first message yet: a connection that ends before can end the node (docs/SECURITY.md).
  virtual ~RowReader() = default;

  // Starts a session; OnOpen or OnClosed follows. Never blocks.
  [[nodiscard]] virtual SessionId Open(const NodeTarget& target) = 0;
  // Ends a session: reads in flight end with kCancelled, then OnClosed (all from Progress).
  virtual void Close(SessionId session) = 0;

  // Starts one read of an open session. `rows` [n], 1 <= n <= kReadRowsMax, is copied. `tag` comes
  // back in the events; the caller keeps tags of reads in flight distinct. After `wanted_by` the
  // rows are of no use any more: the node may say so (kDeadlineExceeded) instead of sending them,
  // and answers what is wanted sooner first.
  // ERRORS: kResourceExhausted (kReadsInFlightMax reads in flight: progress first), kPeerLost (not
  // open any more: OnClosed follows or came). No event follows an error.
  [[nodiscard]] virtual StatusCode Post(SessionId session, uint64_t tag,
                                        std::span<const RowAddress> rows,
                                        MonotonicTime wanted_by) = 0;

  // Says that no read under a map older than `epoch` is in flight on this session any more.
  virtual void AcknowledgeEpoch(SessionId session, Epoch epoch) = 0;

  // Does what can be done now and runs events. True if anything happened.
  virtual bool Progress() = 0;
  // Sleeps until there may be something to do, Wake() is called, or `until`; spins briefly first.
  // `driving`, which may be null, is held by whoever drives the reader: it is released during the
  // sleep and held again after it.
  virtual void Wait(MonotonicTime until, std::unique_lock<std::mutex>* driving) = 0;
  // Ends a Wait. Thread-safe.
  virtual void Wake() = 0;

  // Another thread drives the reader between these two, holding `driving`, while one is in Wait:
  // what comes does not wake that one.
  virtual void Borrow() = 0;
  // From now on it does again, and its Wait ends at `until` at the latest. False: there is
  // something to do (Progress, or Wake it).
  [[nodiscard]] virtual bool GiveBack(MonotonicTime until) = 0;
};

// Makes readers. Thread-safe. Outlives its readers.
class Transport {
 public:
  virtual ~Transport() = default;
  // `events` must outlive the reader.
  [[nodiscard]] virtual Result<std::unique_ptr<RowReader>> CreateReader(ReaderEvents* events) = 0;
};

}  // namespace engram
