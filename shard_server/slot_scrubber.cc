#include "shard_server/slot_scrubber.h"

#include <algorithm>
#include <utility>

#include <pthread.h>

#include "engram/base/thread_role.h"
#include "engram/table/stored_row.h"

namespace engram {

ScrubResult CheckSlot(const ScrubJob& job, ByteRate* rate, const Clock& clock,
                      const std::function<ScrubWait(MonotonicTime)>& wait) {
  const SlotRange& range = job.layout->slot(job.slot);
  const uint32_t row_stride = job.layout->row_stride();
  const uint32_t row_bytes = job.layout->row_bytes();
  const int32_t layer_id =
      job.layout->spec().hash.layer_ids[static_cast<size_t>(range.layer_index)];
  const auto step_rows = static_cast<uint32_t>(std::max<uint64_t>(1, kScrubStepBytes / row_stride));
  ScrubResult result;
  for (uint32_t first = 0; first < range.row_count;) {
    const uint32_t count = std::min(step_rows, range.row_count - first);
    const uint64_t bytes = uint64_t{count} * row_stride;
    MonotonicTime again;
    if (rate != nullptr && !rate->Take(bytes, clock.Now(), &again)) {
      const ScrubWait waited = wait(again);
      if (waited == ScrubWait::kStop) return result;
      if (waited == ScrubWait::kUnbounded) rate = nullptr;
      continue;
    }
    for (uint32_t row = first; row < first + count; ++row) {
      const std::byte* const stored = job.rows + uint64_t{row} * row_stride;
      if (VerifyRow(job.version, layer_id, RowId(range.first_row.value() + row), stored,
                    row_bytes)) {
        continue;
      }
      ++result.rows_damaged;
      if (result.first_damaged.size() < kDamagedRowsNamedMax) result.first_damaged.push_back(row);
    }
    first += count;
    result.bytes += bytes;
  }
  result.complete = true;
  return result;
}

SlotScrubber::SlotScrubber(uint64_t bytes_per_s_max) {
  rate_.SetMax(bytes_per_s_max, SteadyClock().Now());
}

SlotScrubber::~SlotScrubber() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void SlotScrubber::Start(const ScrubJob& job, bool bounded, OnChecked on_checked) {
  {
    const std::lock_guard lock(mutex_);
    next_ = Work{job, bounded, std::move(on_checked)};
    hurried_ = false;
  }
  if (thread_.joinable()) {
    changed_.notify_all();
    return;
  }
  thread_ = std::thread([this] { Run(); });
  (void)pthread_setname_np(thread_.native_handle(), "engram-scrub");
}

void SlotScrubber::Hurry() {
  {
    const std::lock_guard lock(mutex_);
    hurried_ = true;
  }
  changed_.notify_all();
}

ScrubWait SlotScrubber::WaitUntil(MonotonicTime again) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, again, [this] { return stopped_ || hurried_; });
  if (stopped_) return ScrubWait::kStop;
  return hurried_ ? ScrubWait::kUnbounded : ScrubWait::kAskAgain;
}

void SlotScrubber::Run() {
  BecomeComputeThread();  // readers come first
  while (true) {
    Work work;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopped_ || next_.has_value(); });
      if (stopped_) return;
      work = *std::exchange(next_, std::nullopt);
    }
    const ScrubResult result = CheckSlot(work.job, work.bounded ? &rate_ : nullptr, SteadyClock(),
                                         [this](MonotonicTime again) { return WaitUntil(again); });
    if (!result.complete) return;
    bytes_checked_.fetch_add(result.bytes, std::memory_order_relaxed);
    work.on_checked(result);
  }
}

}  // namespace engram
