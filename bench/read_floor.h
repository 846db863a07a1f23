// What the rows of a batch cost with nothing added: the floor of engram-bench read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/bare_rows.h"
#include "bench/batch_rows.h"
#include "bench/read_node.h"
#include "bench/token_source.h"
#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/table/table_layout.h"

namespace engram::bench {

using FloorMeasured = BatchTimes;

// Reads the rows of the same kind of batches as a ReadLoop: every row of every token, none left
// out. Where they lie is worked out beforehand and not timed. Thread-compatible.
class ReadFloor {
 public:
  // Nothing is owned.
  ReadFloor(const TableLayout* layout, const NgramHasher* hasher, TokenSource* tokens)
      : layout_(layout), rows_(layout, hasher, tokens), places_(*layout) {}

  // Over the wire, from `node`'s BareServer. Tries every choice of messages for a moment, and keeps
  // the fastest. ERRORS: kCorrupt if another row came; those of BareGather.
  [[nodiscard]] Status PrepareGather(const ReadNode& node, const std::string& transport,
                                     uint32_t tokens);
  [[nodiscard]] const BareMessages& messages() const { return messages_; }
  [[nodiscard]] Result<FloorMeasured> RunGather(uint32_t tokens, double seconds);

  // By this thread, from memory that is mapped here.
  [[nodiscard]] FloorMeasured RunCopy(const SharedMemory& memory, uint32_t tokens, double seconds);

 private:
  // The number of rows.
  size_t NextRows(uint32_t tokens);
  [[nodiscard]] Status CheckGather(uint32_t tokens);

  const TableLayout* layout_;
  BatchRows rows_;
  RowPlaces places_;
  std::unique_ptr<BareGather> gather_;
  BareMessages messages_;
  std::vector<uint64_t> offsets_;                     // of the batch's rows
  const std::vector<uint64_t>* addresses_ = nullptr;  // the same rows
  std::vector<std::byte> out_;
};

}  // namespace engram::bench
