#include "client/following_rows.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pthread.h>
#include <spdlog/spdlog.h>

#include "client/row_stats.h"
#include "engram/base/check.h"

namespace engram {
namespace {

class FollowingRows final : public RowSource {
 public:
  FollowingRows(const FollowingRowsOptions& options, std::shared_ptr<const TableLayout> layout,
                std::shared_ptr<const NgramHasher> hasher, OpenedVersion first, OpenVersion open)
      : options_(options),
        open_(std::move(open)),
        layout_(std::move(layout)),
        hasher_(std::move(hasher)),
        batch_tokens_max_(first.rows->batch_tokens_max()),
        entries_(options.batches_max) {
    for (uint32_t i = options.batches_max; i > 0; --i) free_.push_back(i - 1);
    reading_ = std::make_shared<Opened>(first.version, first.rows.get());
    open_rows_.push_back(first.rows.get());
    thread_ = std::thread([this, first = std::move(first)]() mutable { Follow(std::move(first)); });
    (void)pthread_setname_np(thread_.native_handle(), "engram-follow");
  }

  ~FollowingRows() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    woken_.notify_all();
    thread_.join();
  }

  [[nodiscard]] const TableLayout& layout() const override { return *layout_; }
  [[nodiscard]] const NgramHasher& hasher() const override { return *hasher_; }
  [[nodiscard]] uint32_t batch_tokens_max() const override { return batch_tokens_max_; }

  [[nodiscard]] Result<Ticket> Prefetch(std::span<const TokenRun> runs,
                                        const BatchOptions& options) override {
    std::shared_ptr<Opened> opened;
    uint32_t place = 0;
    {
      const std::lock_guard lock(mutex_);
      if (free_.empty()) {
        return Error(StatusCode::kResourceExhausted,
                     std::to_string(entries_.size()) +
                         " batches are in flight, the most at once: release a ticket first");
      }
      place = free_.back();
      free_.pop_back();
      opened = reading_;
    }
    auto inner = opened->rows->Prefetch(runs, options);
    const std::lock_guard lock(mutex_);
    if (!inner.has_value()) {
      free_.push_back(place);
      if (opened != reading_) WakeLocked();
      return Error(std::move(inner).error());
    }
    Entry& entry = entries_[place];
    ENGRAM_CHECK(entry.ticket == Ticket());
    entry.ticket = Ticket((++tickets_ << kPlaceBits) | place);
    entry.inner = *inner;
    entry.opened = std::move(opened);
    return entry.ticket;
  }

  [[nodiscard]] Result<LayerRows> Await(Ticket ticket, int32_t layer_index) override {
    RowSource* rows = nullptr;
    Ticket inner;
    {
      const std::lock_guard lock(mutex_);
      const Entry* const entry = Find(ticket);
      if (entry == nullptr) return Error(StatusCode::kInvalidArgument, "no such ticket");
      rows = entry->opened->rows;  // stays until the ticket is released
      inner = entry->inner;
    }
    return rows->Await(inner, layer_index);
  }

  void Release(Ticket ticket) override {
    Entry released;
    {
      const std::lock_guard lock(mutex_);
      Entry* const entry = Find(ticket);
      if (entry == nullptr) return;
      released = std::exchange(*entry, Entry());
    }
    released.opened->rows->Release(released.inner);
    const std::lock_guard lock(mutex_);
    free_.push_back(PlaceOf(ticket));
    if (released.opened != reading_) WakeLocked();  // it may have been the last of its version
    released.opened = nullptr;
  }

  [[nodiscard]] RowSourceStats Stats() const override {
    const std::lock_guard lock(stats_mutex_);
    RowSourceStats stats = closed_stats_;
    for (RowSource* const rows : open_rows_) AddStats(rows->Stats(), &stats);
    return stats;
  }
  [[nodiscard]] RowSourceStats Counts() const override {
    const std::lock_guard lock(stats_mutex_);
    RowSourceStats stats = closed_stats_;
    for (RowSourceStats::Layer& layer : stats.layers) {
      layer.prefetch_us.clear();
      layer.window_us.clear();
    }
    for (RowSource* const rows : open_rows_) AddStats(rows->Counts(), &stats);
    return stats;
  }
  void ResetStats() override {
    const std::lock_guard lock(stats_mutex_);
    closed_stats_ = {};
    for (RowSource* const rows : open_rows_) rows->ResetStats();
  }
  [[nodiscard]] FillStages Stages() const override {
    const std::lock_guard lock(stats_mutex_);
    FillStages stages{};
    for (const RowSource* const rows : open_rows_) {
      const FillStages of_version = rows->Stages();
      for (size_t i = 0; i < stages.size(); ++i) stages[i] += of_version[i];
    }
    return stages;
  }

 private:
  static constexpr uint32_t kPlaceBits = 16;

  // Held by every ticket of the version, and by reading_: gone when nobody uses it.
  struct Opened {
    Opened(TableVersion number, RowSource* source) : version(number), rows(source) {}
    const TableVersion version;
    RowSource* const rows;
  };
  struct Entry {
    Ticket ticket;
    Ticket inner;
    std::shared_ptr<Opened> opened;
  };
  // A version that is read no more, until its last ticket is released.
  struct Old {
    std::weak_ptr<Opened> used;
    OpenedVersion opened;
  };

  [[nodiscard]] static uint32_t PlaceOf(Ticket ticket) {
    return static_cast<uint32_t>(ticket.value() & ((1u << kPlaceBits) - 1));
  }
  // Precondition: mutex_ is held.
  [[nodiscard]] Entry* Find(Ticket ticket) {
    if (PlaceOf(ticket) >= entries_.size() || ticket == Ticket()) return nullptr;
    Entry& entry = entries_[PlaceOf(ticket)];
    return entry.ticket == ticket ? &entry : nullptr;
  }

  void Wake() {
    const std::lock_guard lock(mutex_);
    WakeLocked();
  }
  void WakeLocked() {
    woken_up_ = true;
    woken_.notify_all();
  }

  // The following thread's life. It alone opens, changes over and closes.
  void Follow(OpenedVersion opened) {
    uint64_t subscription = opened.current->SubscribeCurrent([this] { Wake(); });
    std::vector<Old> old;
    TableVersion failed;  // could not be opened; tried again at retry_at
    Duration delay{};
    MonotonicTime retry_at = MonotonicTime::max();
    while (WaitUntil(retry_at)) {
      CloseUnused(&old);
      const TableVersion wanted = opened.current->CurrentVersion();
      if (wanted == TableVersion() || wanted == opened.version) {
        retry_at = MonotonicTime::max();
        continue;
      }
      if (wanted == failed && SteadyClock().Now() < retry_at) continue;
      auto next = OpenAnother(wanted);
      if (!next.has_value()) {
        delay = wanted == failed ? std::min(delay * 2, options_.retry_max) : options_.retry_min;
        failed = wanted;
        retry_at = SteadyClock().Now() + delay;
        spdlog::error("table version {} is current and cannot be read: {}; reads stay with {}",
                      wanted.value(), next.error().ToString(), opened.version.value());
        continue;
      }
      failed = TableVersion();
      retry_at = MonotonicTime::max();
      if (opened.current->CurrentVersion() != wanted) {
        // Switched back while it was opened, before nodes knew of a reader to wait for: it may be
        // dropped already.
        Wake();
        continue;
      }
      spdlog::info("table version {} is read from the next batch on, no longer {}", wanted.value(),
                   opened.version.value());
      opened.current->UnsubscribeCurrent(subscription);
      old.push_back(ChangeOver(&*next));
      std::swap(old.back().opened, opened);
      opened = *std::move(next);
      subscription = opened.current->SubscribeCurrent([this] { Wake(); });
      Wake();  // it may have changed before, and the old one may be unused
    }
    opened.current->UnsubscribeCurrent(subscription);
    const std::lock_guard lock(stats_mutex_);
    open_rows_.clear();
  }

  // False: the end.
  bool WaitUntil(MonotonicTime until) {
    std::unique_lock lock(mutex_);
    const auto due = [this] { return stopping_ || woken_up_; };
    if (until == MonotonicTime::max()) {
      woken_.wait(lock, due);
    } else {
      woken_.wait_until(lock, until, due);
    }
    woken_up_ = false;
    return !stopping_;
  }

  Result<OpenedVersion> OpenAnother(TableVersion version) {
    auto opened = open_(version);
    if (opened.has_value() && (opened->rows->layout().spec() != layout_->spec() ||
                               opened->rows->batch_tokens_max() < batch_tokens_max_)) {
      return Error(StatusCode::kWrongModel,
                   "its tables have another shape than those of the version that is read: start "
                   "workers with the new model instead");
    }
    return opened;
  }

  // Batches from now on read `next`. What tells when the version before is unused.
  Old ChangeOver(const OpenedVersion* next) {
    {
      const std::lock_guard lock(stats_mutex_);
      open_rows_.push_back(next->rows.get());
    }
    auto reading = std::make_shared<Opened>(next->version, next->rows.get());
    const std::lock_guard lock(mutex_);
    reading_.swap(reading);
    return {reading, {}};
  }

  void CloseUnused(std::vector<Old>* old) {
    std::erase_if(*old, [this](Old& entry) {
      if (!entry.used.expired()) return false;
      const std::lock_guard lock(stats_mutex_);
      AddStats(entry.opened.rows->Stats(), &closed_stats_);
      closed_stats_.held = {};
      std::erase(open_rows_, entry.opened.rows.get());
      return true;
    });
  }

  const FollowingRowsOptions options_;
  const OpenVersion open_;
  const std::shared_ptr<const TableLayout> layout_;
  const std::shared_ptr<const NgramHasher> hasher_;
  const uint32_t batch_tokens_max_;

  std::mutex mutex_;
  std::condition_variable woken_;
  // Guarded by mutex_.
  bool woken_up_ = true;
  bool stopping_ = false;
  std::shared_ptr<Opened> reading_;
  std::vector<Entry> entries_;  // [batches_max]
  std::vector<uint32_t> free_;
  uint64_t tickets_ = 0;

  mutable std::mutex stats_mutex_;
  // Guarded by stats_mutex_.
  std::vector<RowSource*> open_rows_;
  RowSourceStats closed_stats_;

  std::thread thread_;
};

}  // namespace

std::unique_ptr<RowSource> CreateFollowingRows(const FollowingRowsOptions& options,
                                               std::shared_ptr<const TableLayout> layout,
                                               std::shared_ptr<const NgramHasher> hasher,
                                               OpenedVersion first, OpenVersion open) {
  ENGRAM_CHECK(options.batches_max >= 1 && options.batches_max < 1u << 16);
  return std::make_unique<FollowingRows>(options, std::move(layout), std::move(hasher),
                                         std::move(first), std::move(open));
}

}  // namespace engram
