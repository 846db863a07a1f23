// Readers that ask a node for rows and look at nothing: as little work as a reader can have, so
// that what is measured is the node.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "bench/latency_histogram.h"
#include "bench/read_node.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_reader.h"

namespace engram::bench {

// What all clients of a process do together for a while.
struct LoadPlan {
  double seconds = 1;
  uint32_t rows = 1024;  // of a read
  uint32_t window = 16;  // reads in flight of each client, in a closed loop
  double reads_s = 0;    // of all clients together, come what may; 0 = a closed loop
  Duration wanted_within = Duration::max();
  bool backs_off = true;  // a client that is refused asks for nothing for as long as it is told
  std::chrono::microseconds pause{50};  // when nothing happens
};

struct LoadOutcome {
  double seconds = 0;
  uint64_t rows = 0;      // that came
  uint64_t reads = 0;     // whose rows came
  uint64_t refused = 0;   // the node was busy: it said so
  uint64_t expired = 0;   // it was too late: the node said so
  uint64_t held = 0;      // not sent: the node had asked for a pause
  uint64_t unsent = 0;    // not sent: as many in flight as a session may have
  uint64_t silent = 0;    // neither rows nor a refusal
  LatencyHistogram took;  // of reads whose rows came

  [[nodiscard]] double rows_s() const { return static_cast<double>(rows) / seconds; }
  [[nodiscard]] std::string ToText() const;
  // ERRORS: kMalformed.
  [[nodiscard]] static Result<LoadOutcome> FromText(const std::string& text);
};

// Driven by one thread. Each is a client of its own to the node.
class RawClients {
 public:
  // ERRORS: those of the transport; kUnavailable where the node opens no session.
  [[nodiscard]] static Result<std::unique_ptr<RawClients>> Connect(
      const NodeContact& node, std::shared_ptr<const TableLayout> layout, uint32_t count);
  ~RawClients();
  [[nodiscard]] LoadOutcome Run(const LoadPlan& plan);
  // Between runs, ten times a second at least: nodes end sessions that are silent.
  void KeepUp() { (void)ProgressAll(); }

 private:
  class Client;
  explicit RawClients(std::shared_ptr<const TableLayout> layout);
  [[nodiscard]] bool ProgressAll();
  [[nodiscard]] RowAddress DrawRow();

  const std::shared_ptr<const TableLayout> layout_;
  std::vector<std::unique_ptr<Client>> clients_;
  uint64_t random_ = 1;
};

}  // namespace engram::bench
