// What loopback servers and readers share. Only loopback_network.h is for others.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engram/base/clock.h"
#include "engram/transport/row_server.h"

namespace engram::loopback {

// One server, alive or lost. Guarded by Wire::mutex.
struct Node {
  Incarnation incarnation;
  bool lost = false;
  std::map<TableVersion, std::shared_ptr<const ServedSlots>> versions;
  RowServerStats stats;
};

// The switches of one address. Guarded by Wire::mutex.
struct Line {
  std::shared_ptr<Node> node;  // null: nobody listens
  bool held = false;
  Duration delay{};
  uint64_t corrupt_rows = 0;
  StatusCode refuse_sessions = StatusCode::kOk;
  uint64_t fail_reads = 0;
  StatusCode fail_reads_with = StatusCode::kOk;
};

// A reader's sleep. Guarded by Wire::mutex.
struct Sleeper {
  std::condition_variable wakened;
  bool wake = false;
};

class Wire {
 public:
  explicit Wire(const Clock& clock) : clock_(clock) {}

  std::mutex mutex;
  std::map<std::string, Line> lines;
  std::set<Sleeper*> sleepers;

  [[nodiscard]] const Clock& clock() const { return clock_; }
  // Precondition: `mutex` is held. Something that a reader may wait for has changed.
  void WakeAll() {
    for (Sleeper* sleeper : sleepers) {
      sleeper->wake = true;
      sleeper->wakened.notify_all();
    }
  }

 private:
  const Clock& clock_;
};

}  // namespace engram::loopback
