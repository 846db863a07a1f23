// What a read scheduler tells its owner: rows that came, layers that are whole or failed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/shard_map.h"

namespace engram {

// Called from inside the scheduler's own calls. Must not call back into it.
class ScheduledRows {
 public:
  virtual ~ScheduledRows() = default;
  // Rows of a ticket arrived. The owner verifies and keeps each.
  //   rows    [n] rows of the ticket, as AddRows numbered them; kNoRow = skip this one
  //   stored  [n][row_stride]
  //   taken   [n] written: 1 = right and kept, 0 = its CRC is wrong
  virtual void TakeRows(uint32_t slot, std::span<const uint32_t> rows, const std::byte* stored,
                        uint8_t* taken) = 0;
  // Every row of the layer was taken, or `status` says which could not be had, from where and why.
  // Called once for each layer; the last call for a ticket is the last that mentions it.
  virtual void OnLayerDone(uint32_t slot, int32_t layer_index, const Status& status,
                           uint64_t rows_failed) = 0;
  // A row from this node failed its CRC: report the slot.
  virtual void OnRowWrong(SlotIndex table_slot, const ShardMapNode& node) = 0;
  // Part of a read failed and is tried again.
  virtual void OnReadRetried() = 0;
  // A read is late: the rows it still owes are asked of another replica too. Once for a read.
  virtual void OnReadHedged() = 0;
  // A row of a hedged read came from the other replica first. Once for a read.
  virtual void OnHedgeWon() = 0;
  // A newer map than SetMap gave exists, or is needed.
  virtual void OnMapWanted() = 0;
};

}  // namespace engram
