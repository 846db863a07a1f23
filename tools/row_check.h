// Rows of the memory nodes against the checkpoint, byte by byte.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "client/row_lookup.h"
#include "engram/base/status.h"
#include "engram/checkpoint/checkpoint_rows.h"
#include "engram/table/table_layout.h"

namespace engram {

struct RowCheckResult {
  uint64_t rows_verified = 0;         // equal to the checkpoint's
  uint64_t rows_wrong = 0;            // delivered with a right CRC, but not the checkpoint's bytes
  uint64_t rows_failed = 0;           // not delivered: corrupt, unavailable, ...
  std::vector<std::string> failures;  // the first kFailuresShown, one sentence each
  StatusCode first_failure = StatusCode::kOk;

  [[nodiscard]] uint64_t rows_asked() const { return rows_verified + rows_wrong + rows_failed; }
};
inline constexpr size_t kFailuresShown = 10;
// A check that finds so many ends early: the cluster is down, or the tables are others.
inline constexpr uint64_t kFailuresMax = 20000;

// Reads rows in large blocks, so that rows that do not come cost their deadline once a block, and
// compares. One thread.
class RowCheck {
 public:
  // All outlive the check.
  RowCheck(RowLookup* nodes, CheckpointRows* checkpoint, const TableLayout* layout)
      : nodes_(nodes), checkpoint_(checkpoint), layout_(layout) {}

  using OnProgress = std::function<void(const RowCheckResult&)>;
  // Every row of every slot. ERRORS: the checkpoint's; rows that are not right are in the result.
  [[nodiscard]] Status CheckAll(const OnProgress& on_progress);
  // `count` rows, drawn evenly over all rows of the version.
  [[nodiscard]] Status CheckSample(uint64_t count, uint64_t seed, const OnProgress& on_progress);

  [[nodiscard]] const RowCheckResult& result() const { return result_; }

 private:
  // Adds rows [first, first + count) of a slot to the block.
  [[nodiscard]] Status Add(SlotIndex slot, uint32_t first, uint32_t count);
  // Reads the block from the nodes, compares, and empties it. False when too many rows failed.
  [[nodiscard]] bool ReadAndCompare();
  void Record(RowAddress address, StatusCode code, const std::string& what);

  RowLookup* nodes_;
  CheckpointRows* checkpoint_;
  const TableLayout* layout_;
  RowCheckResult result_;
  // The block.
  std::vector<RowAddress> addresses_;
  std::vector<std::byte> expected_;  // [addresses_][row_bytes]
  std::vector<std::byte> found_;
  std::vector<StatusCode> statuses_;
};

}  // namespace engram
