// Where the coordinator keeps what must outlive it: records by key, written in transactions; and
// who may write them: the one process that leads, for as long as its term lasts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram {

struct MetadataRecord {
  std::string key;                   // without zero bytes
  std::optional<std::string> value;  // none = delete

  friend bool operator==(const MetadataRecord&, const MetadataRecord&) = default;
};

// Who leads, as this process knows it now.
struct Leadership {
  uint64_t term = 0;   // this process's; 0 = it does not lead
  std::string leader;  // "host:port" that the leader gave to Campaign; empty = nobody known leads
  // What the leader wrote, all of one moment; null while this process leads, or has read nothing
  // yet. Another object after each change.
  std::shared_ptr<const std::vector<MetadataRecord>> followed;
  MonotonicTime followed_at;  // when `followed` was last known to be the newest
};

// One thread, the coordinator's, uses it; leadership() may be asked on any.
class MetadataStore {
 public:
  virtual ~MetadataStore() = default;

  // Stands for election, from now until the store is destroyed; who leads is for the store to
  // decide. Every term is higher than all before, and writes of earlier terms are refused once it
  // has begun. Call once.
  //   address    where other processes reach this one, told to them while it leads
  //   on_change  called, on any thread, after leadership() changed; short, and does not call back.
  //              Not called any more once the destructor has returned.
  // ERRORS: kIo: the store cannot be used. A store that is shared and cannot be reached is no
  // error: it is tried again for ever.
  [[nodiscard]] virtual Status Campaign(std::string address, std::function<void()> on_change) = 0;
  // Thread-safe. A term is over here no later than the store may give the next one to another.
  [[nodiscard]] virtual Leadership leadership() const = 0;
  // Ends `term` if it is this process's: what it has in memory is not what is written. It stands
  // for election again, after the others had their turn.
  virtual void Resign(uint64_t term) = 0;
  // Several processes share this store: one that does not lead follows, and may lead later.
  [[nodiscard]] virtual bool shared() const = 0;

  // Every record, in the order of their keys, all of one moment.
  // ERRORS: kIo, kCorrupt, kUnavailable (shared and not reached; retry).
  [[nodiscard]] virtual Result<std::vector<MetadataRecord>> ReadAll() = 0;
  // All of `records` or none; durable when it returns ok. Of a key that comes twice, the last
  // counts. ERRORS: kFailedPrecondition (the term is over: nothing was written, nor ever will be);
  // kInvalidArgument (a key that no record may have; nothing was written); any other: whether it
  // was written, or will be yet, is not known: resign or end.
  [[nodiscard]] virtual Status Commit(uint64_t term,
                                      const std::vector<MetadataRecord>& records) = 0;
};

}  // namespace engram
