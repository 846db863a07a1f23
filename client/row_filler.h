// What one I/O thread does for the batches that are in flight.
#pragma once

#include <mutex>

#include "client/row_stats.h"
#include "client/staging_ring.h"

namespace engram {

// Fills its part of every batch: its columns' rows, all layers. Everything but Wake, counters and
// gauges is called by whoever drives it (TicketedRows), one thread at a time: its own, or a caller
// while that one sleeps.
class RowFiller {
 public:
  virtual ~RowFiller() = default;

  // A new batch. From now until it calls StagingRing::DropPart the filler may write its columns'
  // rows; it finishes its part of each layer (FinishPart) by the buffer's deadline, as rows or as
  // an error.
  virtual void Begin(StagingBuffer& buffer) = 0;
  // The ticket was released. If the part is still held: writes nothing more and drops it.
  virtual void Abandon(StagingBuffer& buffer) = 0;
  // Does what can be done now. True if anything was.
  virtual bool Progress() = 0;
  // Sleeps until there may be something to do, or Wake. `driving`, which the thread that drives
  // holds, is released during the sleep.
  virtual void Wait(std::unique_lock<std::mutex>& driving) = 0;
  // Ends a Wait, the next one if none is going on. Thread-safe.
  virtual void Wake() = 0;
  // Another thread drives between these two, while the filler's own is in Wait: as those of
  // RowReader.
  virtual void Borrow() = 0;
  [[nodiscard]] virtual bool GiveBack() = 0;

  [[nodiscard]] const FillCounters& counters() const { return counters_; }
  [[nodiscard]] const FillGauges& gauges() const { return gauges_; }

 protected:
  void Enter(FillStage stage) { gauges_.stage.store(stage, std::memory_order_relaxed); }

  FillCounters counters_;
  FillGauges gauges_;
};

}  // namespace engram
