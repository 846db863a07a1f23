// The half of a row source that does not care where rows come from: tickets, staging buffers,
// threads and statistics. Sources differ in their fillers, and in what their rings hold.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "client/row_filler.h"
#include "client/row_source.h"
#include "client/row_stats.h"
#include "client/staging_ring.h"

namespace engram {

// Thread-safe, as row_source.h says. Starts one thread per filler; ends them in its destructor,
// which must not run while another call does. Where there is one thread and it sleeps, a caller
// does its work: Prefetch that of a small batch, Await what its layer lacks
// (docs/decisions/0027-callers-drive.md).
class TicketedRows final : public RowSource {
 public:
  struct Parts {
    bool only_ids = false;  // the ring has row ids (LayerRows)
    LandedTable landed;     // that they are of; none = of the backend's tables
    std::shared_ptr<const TableLayout> layout;
    std::shared_ptr<const NgramHasher> hasher;
    std::unique_ptr<StagingRing> ring;                // part_count = fillers.size()
    std::vector<std::unique_ptr<RowFiller>> fillers;  // at least one; may use *ring
    ColumnStripe stripe;                              // of striped batches; the fillers' too
    // A thread without work, and a caller of Await, look for some this long before they sleep.
    Duration spin{};
    // Destroyed last: what fillers lean on (transport, directory, tables).
    std::vector<std::shared_ptr<const void>> keep_alive;
  };
  explicit TicketedRows(Parts parts);
  ~TicketedRows() override;
  TicketedRows(const TicketedRows&) = delete;
  TicketedRows& operator=(const TicketedRows&) = delete;

  [[nodiscard]] const TableLayout& layout() const override { return *parts_.layout; }
  [[nodiscard]] const NgramHasher& hasher() const override { return *parts_.hasher; }
  [[nodiscard]] uint32_t batch_tokens_max() const override {
    return parts_.ring->options().tokens_max;
  }
  [[nodiscard]] Result<Ticket> Prefetch(std::span<const TokenRun> runs,
                                        const BatchOptions& options) override;
  [[nodiscard]] Result<LayerRows> Await(Ticket ticket, int32_t layer_index) override;
  void Release(Ticket ticket) override;
  [[nodiscard]] RowSourceStats Stats() const override { return StatsOf(/*with_samples=*/true); }
  [[nodiscard]] RowSourceStats Counts() const override { return StatsOf(/*with_samples=*/false); }
  void ResetStats() override;
  [[nodiscard]] FillStages Stages() const override;

 private:
  // A message to a fill thread. `ticket` tells an abandoned batch from the next one in its buffer.
  struct Command {
    bool abandon = false;
    uint32_t buffer = 0;
    uint64_t ticket = 0;
  };
  struct FillThread {
    RowFiller* filler = nullptr;
    // Held by whoever drives the filler: the thread, except while it sleeps, or a caller then.
    std::mutex driving;
    std::mutex mutex;
    std::vector<Command> commands;  // guarded by mutex; capacity fixed
    std::atomic<bool> has_commands{false};
    std::atomic<bool> may_sleep{false};
    std::vector<Command> taken;    // guarded by driving
    std::vector<uint64_t> active;  // [buffers] guarded by driving: tickets it was given
    std::thread thread;
    clockid_t cpu_clock{};
  };

  [[nodiscard]] uint64_t RowsOf(uint64_t tokens, bool striped) const {
    const auto columns = static_cast<uint32_t>(layout().column_count());
    return tokens * (striped ? parts_.stripe.columns(columns) : columns) *
           static_cast<uint64_t>(layout().layer_count());
  }
  // Callers do the work of a thread that sleeps: two wakes take longer than a small batch. Calls
  // work(thread) while the caller drives; false, without a call, where no thread sleeps.
  template <typename Work>
  bool DriveHere(Work work);
  // False: left to the thread.
  [[nodiscard]] bool BeginHere(const Command& command);
  // Drives until the layer is ready, or nothing has happened for a while.
  void HelpUntilReady(StagingBuffer& buffer, int32_t layer_index);
  void Send(FillThread& thread, const Command& command);
  void SendAll(const Command& command);
  void Run(FillThread& thread);
  bool TakeCommands(FillThread& thread);
  void Run(FillThread& thread, const Command& command);
  [[nodiscard]] RowSourceStats StatsOf(bool with_samples) const;
  [[nodiscard]] RowSourceStats Totals() const;
  [[nodiscard]] RowSourceStats::Held Held() const;

  Parts parts_;
  RowStats stats_;
  std::vector<std::unique_ptr<FillThread>> threads_;
  std::atomic<bool> stopping_{false};
  mutable std::mutex baseline_mutex_;
  RowSourceStats baseline_;  // guarded by baseline_mutex_; the fill threads' counts at ResetStats
};

}  // namespace engram
