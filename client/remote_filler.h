// One I/O thread of RemoteRows: plans its columns of each batch, reads, verifies, scatters.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "client/read_plan.h"
#include "client/read_scheduler.h"
#include "client/remote_rows.h"
#include "client/row_cache.h"
#include "client/row_filler.h"
#include "client/shard_map_source.h"
#include "engram/transport/row_reader.h"

namespace engram {

// Driven by one thread at a time, as RowFiller says. Nothing allocates per batch after warm-up.
class RemoteFiller final : public RowFiller, private ReaderEvents, private ScheduledRows {
 public:
  struct Context {
    const NgramHasher* hasher = nullptr;
    const TableLayout* layout = nullptr;
    ShardMapSource* maps = nullptr;
    StagingRing* ring = nullptr;
    uint32_t part = 0;
    uint32_t part_count = 1;
    LandedRows* landed = nullptr;  // rows go there; null = into the staging buffers
    uint32_t part_places = 0;      // in it, of one part of one batch
  };
  // Everything in `context` must outlive the filler. ERRORS: the transport's.
  [[nodiscard]] static Result<std::unique_ptr<RemoteFiller>> Create(
      const RemoteRowsOptions& options, const Context& context, Transport* transport);
  ~RemoteFiller() override;

  // Waits until the session with every node that is said to be up is open; at `until`, why it is
  // not (NodeSessions::AllOpen). Thread-safe; needs the driving thread to run.
  [[nodiscard]] Status WaitForSessions(MonotonicTime until);

  void Begin(StagingBuffer& buffer) override;
  void Abandon(StagingBuffer& buffer) override;
  bool Progress() override;
  void Wait(std::unique_lock<std::mutex>& driving) override;
  void Wake() override { reader_->Wake(); }
  void Borrow() override { reader_->Borrow(); }
  [[nodiscard]] bool GiveBack() override;

 private:
  struct WantedNgram {
    NgramKey key;
    uint32_t order = 0;
    uint32_t first_token = 0;
  };
  struct CachedNgram {
    uint32_t first_token = 0;
    const std::byte* rows = nullptr;
  };
  // A batch that this part still works on.
  struct Batch {
    StagingBuffer* buffer = nullptr;  // null: none
    int32_t layers_left = 0;
    bool yields = false;                // not begun: a smaller one goes first
    MonotonicTime begin_by;             // then it yields no longer
    std::unique_ptr<ReadPlan> whole;    // of all columns
    std::unique_ptr<ReadPlan> striped;  // of the stripe's; null: it has all
    ReadPlan* plan = nullptr;           // the batch's: one of them
    // N-grams whose rows the cache wants when they are all here, layer by layer.
    std::vector<WantedNgram> wanted;
    std::vector<uint32_t> wanted_begin;  // [layers + 1]
    Status landing_failure;              // the first: none of its rows counts then
  };

  RemoteFiller(const RemoteRowsOptions& options, const Context& context);
  void Start(std::unique_ptr<RowReader> reader);
  // Plans a batch and asks for its rows.
  void Read(Batch& batch);
  // A batch of at most half as many tokens is being read: a decode step's, which somebody is about
  // to wait for, beside the next step's prefill. Planning and posting the larger one, and its
  // replies, would keep it waiting.
  [[nodiscard]] bool SmallerIsRead(const Batch& batch) const;
  // True if a batch that yielded was begun.
  bool ReadYielded(MonotonicTime now);
  // When Progress has something to do without news from the reader.
  [[nodiscard]] MonotonicTime NextTick() const;
  void TakeFromCache(Batch& batch, int32_t layer_index);
  // The rows that the cache wants of a layer that is complete.
  void PutIntoCache(const Batch& batch, int32_t layer_index);
  // Puts a batch's rows, or their places on the GPU, into its staging buffer.
  struct Scatterer;
  // TakeRows where rows go to the GPU.
  void LandRows(Batch& batch, std::span<const uint32_t> rows, const std::byte* stored,
                uint8_t* taken);
  void CountRows(uint64_t came, uint64_t right);
  // After a session or the map has changed.
  void NoteSessions();

  // ReaderEvents
  void OnOpen(SessionId session, const SessionInfo& info) override;
  void OnClosed(SessionId session, const Status& why) override;
  void OnRows(uint64_t tag, const RowChunk& chunk) override;
  void OnReadDone(uint64_t tag, StatusCode status) override;
  void OnEpoch(SessionId session, Epoch newest) override;
  void OnBusy(SessionId session, Duration retry_after) override;
  // ScheduledRows
  void TakeRows(uint32_t slot, std::span<const uint32_t> rows, const std::byte* stored,
                uint8_t* taken) override;
  void OnLayerDone(uint32_t slot, int32_t layer_index, const Status& status,
                   uint64_t rows_failed) override;
  void OnRowWrong(SlotIndex table_slot, const ShardMapNode& node) override;
  void OnReadRetried() override;
  void OnReadHedged() override;
  void OnHedgeWon() override;
  void OnMapWanted() override;

  const RemoteRowsOptions options_;
  const Context context_;
  const uint32_t row_bytes_;
  const uint32_t row_stride_;
  const uint32_t staged_bytes_;        // of a row's place in a staging buffer
  const uint32_t token_stride_bytes_;  // of a staging buffer
  PlanScratch scratch_;
  std::vector<CachedNgram> found_;  // of one order
  RowCache cache_;
  bool chunk_landed_ = false;            // of the chunk that is being taken
  std::vector<LandedRows::Row> coming_;  // of it; [kReadRowsMax] reserved if rows land
  std::vector<uint8_t> coming_right_;
  std::vector<Batch> batches_;     // [staging buffers]
  std::vector<uint32_t> yielded_;  // of them, in the order of Begin
  std::unique_ptr<RowReader> reader_;
  std::unique_ptr<ReadScheduler> scheduler_;
  std::unordered_map<SessionId, ReadWay> open_sessions_;
  MonotonicTime next_tick_;
  MonotonicTime last_tick_;
  MonotonicTime progress_began_;  // the reader's Progress that events come from
  std::atomic<bool> map_changed_{true};
  uint64_t subscription_ = 0;

  std::mutex sessions_mutex_;
  std::condition_variable sessions_changed_;
  Status sessions_open_;  // guarded by sessions_mutex_
};

}  // namespace engram
