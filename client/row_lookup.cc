#include "client/row_lookup.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "client/read_scheduler.h"
#include "engram/table/stored_row.h"

namespace engram {
namespace {

class RowLookupImpl final : public RowLookup, private ReaderEvents, private ScheduledRows {
 public:
  RowLookupImpl(const RowLookupOptions& options, std::shared_ptr<Transport> transport,
                std::shared_ptr<const TableLayout> layout, std::shared_ptr<ShardMapSource> maps)
      : options_(options),
        transport_(std::move(transport)),
        layout_(std::move(layout)),
        maps_(std::move(maps)) {}
  ~RowLookupImpl() override {
    if (subscription_ != 0) maps_->Unsubscribe(subscription_);
  }

  Status Start() {
    auto reader = transport_->CreateReader(this);
    if (!reader.has_value()) return reader.error();
    reader_ = *std::move(reader);
    SchedulerOptions scheduler;
    NodeTarget& target = scheduler.sessions.target;
    target.version = options_.version;
    target.identity = options_.identity;
    target.row_stride = layout_->row_stride();
    target.slot_shift = layout_->slot_shift();
    target.slot_count = layout_->slot_count();
    scheduler.rows_max = kLookupRowsMax;
    scheduler.zone = options_.zone;
    scheduler_ = std::make_unique<ReadScheduler>(scheduler, layout_.get(), reader_.get(),
                                                 static_cast<ScheduledRows*>(this));
    subscription_ = maps_->Subscribe([this] {
      map_changed_.store(true);
      reader_->Wake();
    });
    return {};
  }

  [[nodiscard]] Status ReadRows(std::span<const RowAddress> rows, std::span<std::byte> bytes,
                                std::span<StatusCode> statuses) override {
    const size_t row_bytes = layout_->row_bytes();
    if (rows.size() > kLookupRowsMax || statuses.size() != rows.size() ||
        bytes.size() != rows.size() * row_bytes) {
      return Status(StatusCode::kInvalidArgument,
                    "a lookup of " + std::to_string(rows.size()) + " rows: at most " +
                        std::to_string(kLookupRowsMax) +
                        ", with row_bytes and a status of room for each");
    }
    Status first_failure;
    addresses_.clear();
    places_.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      if (layout_->Contains(rows[i])) {
        addresses_.push_back(rows[i]);
        places_.push_back(i);
        statuses[i] = StatusCode::kUnavailable;
        continue;
      }
      statuses[i] = StatusCode::kInvalidArgument;
      if (first_failure.ok()) {
        first_failure = Status(StatusCode::kInvalidArgument,
                               "row address " + std::to_string(rows[i].value()) + " names no row");
      }
    }
    bytes_ = bytes;
    statuses_ = statuses;
    const Status failure = Run();
    if (failure.ok()) return first_failure;
    // Rows that did not come have the code of the first of them.
    for (const size_t place : places_) {
      if (statuses[place] != StatusCode::kOk) statuses[place] = failure.code();
    }
    return first_failure.ok() ? failure : first_failure;
  }

 private:
  Status Run() {
    const MonotonicTime begin = SteadyClock().Now();
    done_ = false;
    scheduler_->Begin(0, begin, begin + options_.deadline);
    scheduler_->AddRows(0, 0, addresses_.data(), 0, static_cast<uint32_t>(addresses_.size()));
    while (!done_) {
      if (map_changed_.exchange(false)) scheduler_->SetMap(maps_->Current(), SteadyClock().Now());
      const bool worked = reader_->Progress();
      const MonotonicTime now = SteadyClock().Now();
      scheduler_->Tick(now);
      if (worked || done_) continue;
      reader_->Wait(std::min(scheduler_->NextTick(), now + kSleepMax), nullptr);
    }
    return result_;
  }

  // ReaderEvents
  void OnOpen(SessionId session, const SessionInfo& info) override {
    scheduler_->OnOpen(session, info, SteadyClock().Now());
  }
  void OnClosed(SessionId session, const Status& why) override {
    scheduler_->OnClosed(session, why, SteadyClock().Now());
  }
  void OnRows(uint64_t tag, const RowChunk& chunk) override {
    scheduler_->OnRows(tag, chunk, SteadyClock().Now());
  }
  void OnReadDone(uint64_t tag, StatusCode status) override {
    scheduler_->OnReadDone(tag, status, SteadyClock().Now());
  }
  void OnEpoch(SessionId /*session*/, Epoch newest) override { scheduler_->OnEpoch(newest); }
  void OnBusy(SessionId session, Duration retry_after) override {
    scheduler_->OnBusy(session, retry_after, SteadyClock().Now());
  }

  // ScheduledRows
  void TakeRows(uint32_t /*slot*/, std::span<const uint32_t> rows, const std::byte* stored,
                uint8_t* taken) override {
    const std::vector<int32_t>& layer_ids = layout_->spec().hash.layer_ids;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] == kNoRow) continue;
      const RowPlace place = layout_->Place(addresses_[rows[i]]);
      const std::byte* row = stored + i * layout_->row_stride();
      const bool ok = VerifyRow(options_.version, layer_ids[static_cast<size_t>(place.layer_index)],
                                place.row, row, layout_->row_bytes());
      taken[i] = ok ? 1 : 0;
      if (!ok) continue;
      const size_t out = places_[rows[i]];
      std::memcpy(bytes_.data() + out * layout_->row_bytes(), row, layout_->row_bytes());
      statuses_[out] = StatusCode::kOk;
    }
  }
  void OnLayerDone(uint32_t /*slot*/, int32_t /*layer_index*/, const Status& status,
                   uint64_t /*rows_failed*/) override {
    done_ = true;
    result_ = status;
  }
  void OnRowWrong(SlotIndex table_slot, const ShardMapNode& node) override {
    maps_->ReportSlot(table_slot, node);
  }
  void OnReadRetried() override {}
  void OnReadHedged() override {}
  void OnHedgeWon() override {}
  void OnMapWanted() override { maps_->WantNewer(); }

  static constexpr Duration kSleepMax = std::chrono::seconds(1);

  const RowLookupOptions options_;
  const std::shared_ptr<Transport> transport_;
  const std::shared_ptr<const TableLayout> layout_;
  const std::shared_ptr<ShardMapSource> maps_;
  std::unique_ptr<RowReader> reader_;
  std::unique_ptr<ReadScheduler> scheduler_;
  std::atomic<bool> map_changed_{true};
  uint64_t subscription_ = 0;
  // Of the ReadRows going on.
  std::vector<RowAddress> addresses_;
  std::vector<size_t> places_;  // [addresses_] index in the caller's list
  std::span<std::byte> bytes_;
  std::span<StatusCode> statuses_;
  bool done_ = false;
  Status result_;
};

}  // namespace

Result<std::unique_ptr<RowLookup>> RowLookup::Create(const RowLookupOptions& options,
                                                     std::shared_ptr<Transport> transport,
                                                     std::shared_ptr<const TableLayout> layout,
                                                     std::shared_ptr<ShardMapSource> maps) {
  ENGRAM_TRY(maps->Current()->Validate(layout->slot_count()));
  auto lookup = std::make_unique<RowLookupImpl>(options, std::move(transport), std::move(layout),
                                                std::move(maps));
  ENGRAM_TRY(lookup->Start());
  return lookup;
}

}  // namespace engram
