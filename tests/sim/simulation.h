// One history of a simulated cluster: coordinators, memory nodes and reading clients, faults from a
// seed, invariants after every step, and an end where everything must have come to rest.
#pragma once

#include <cstdint>
#include <string>

#include "tests/sim/planted_bug.h"

namespace engram::sim {

struct Scenario {
  uint64_t seed = 1;
  PlantedBug bug = PlantedBug::kNone;
  bool prints_notes = false;
};

// What happened, so that one sees that something did.
struct Figures {
  uint64_t steps = 0;
  uint64_t faults = 0;
  uint64_t batches = 0;
  uint64_t batches_failed = 0;
  uint64_t rows = 0;
  uint64_t rows_mapped = 0;
  uint64_t reads_hedged = 0;
  uint64_t terms = 0;   // leaders, one after the other
  uint64_t checks = 0;  // of memory about to be written, against every reader's lease

  void Add(const Figures& other);
  friend bool operator==(const Figures&, const Figures&) = default;
};

struct Outcome {
  std::string violation;  // empty: every invariant held
  Figures figures;
};

// The invariants (DESIGN.md, "Never a wrong row" and "The coordinator"):
//   1. a client is never handed a row, on any way, that is not of its version, place and contents,
//      but where a bit was flipped on the wire; the CRC is not needed to see to that
//   2. no memory is written while a reader's lease runs and its slot directory lists a slot there
//   3. no write of a leader takes effect in a later term than its own
//   4. one epoch of a version is one map
//   5. with 2 replicas and at most one memory node at fault until replication is restored, no batch
//      fails (in every other seed, whose faults keep to that)
//   6. when the faults end, replication is restored, every plan ends, every reader acknowledges the
//      newest map, and no memory waits for readers any more
[[nodiscard]] Outcome Simulate(const Scenario& scenario);

}  // namespace engram::sim
