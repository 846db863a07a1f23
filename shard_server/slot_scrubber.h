// Checks the rows of slots that are served: that memory still holds what was loaded into it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"
#include "shard_server/byte_rate.h"

namespace engram {

// One slot's rows. OWNERSHIP: `rows` stay there and are written to by nobody until the check ends
// (SlotStore::PinRows).
struct ScrubJob {
  TableVersion version;
  std::shared_ptr<const TableLayout> layout;
  SlotIndex slot;
  const std::byte* rows = nullptr;  // [row_count][row_stride]
};

struct ScrubResult {
  bool complete = false;  // false: stopped half-way; the rest is of the rows checked until then
  uint64_t bytes = 0;
  uint32_t rows_damaged = 0;
  std::vector<uint32_t> first_damaged;  // in the slot, ascending: at most kDamagedRowsNamedMax
};
inline constexpr size_t kDamagedRowsNamedMax = 8;

// What becomes of a check that has to wait for its rate.
enum class ScrubWait : uint8_t {
  kAskAgain,   // the time has come
  kUnbounded,  // it need not wait any more
  kStop,
};

// Verifies each row's CRC, kScrubStepBytes at a time. `rate` null: at once. `wait` is called with
// when to ask again, and blocks as long.
[[nodiscard]] ScrubResult CheckSlot(const ScrubJob& job, ByteRate* rate, const Clock& clock,
                                    const std::function<ScrubWait(MonotonicTime)>& wait);
// Some 0.2 ms of work, every 8 ms at 64 MiB/s: smaller steps are more wakes, of a processor that
// may be asleep or somebody else's.
inline constexpr uint64_t kScrubStepBytes = 512 << 10;

// Checks one slot after the other on a thread of its own, which sleeps while there is none.
// Thread-compatible: one thread drives it; bytes_checked is thread-safe.
class SlotScrubber {
 public:
  // On the scrubber's thread.
  using OnChecked = std::function<void(const ScrubResult&)>;

  // At most so many bytes a second, for checks that are bounded; 0 = no bound.
  explicit SlotScrubber(uint64_t bytes_per_s_max);
  // Stops the check that is under way, which tells nothing then.
  ~SlotScrubber();
  SlotScrubber(const SlotScrubber&) = delete;
  SlotScrubber& operator=(const SlotScrubber&) = delete;

  // Precondition: the check started before has told its end.
  void Start(const ScrubJob& job, bool bounded, OnChecked on_checked);
  // Something waits for the check that is under way: it is bounded no longer.
  void Hurry();
  // Since start.
  [[nodiscard]] uint64_t bytes_checked() const {
    return bytes_checked_.load(std::memory_order_relaxed);
  }

 private:
  struct Work {
    ScrubJob job;
    bool bounded = false;
    OnChecked on_checked;
  };
  void Run();
  [[nodiscard]] ScrubWait WaitUntil(MonotonicTime again);

  ByteRate rate_;
  std::atomic<uint64_t> bytes_checked_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Work> next_;  // guarded by mutex_
  bool hurried_ = false;      // guarded by mutex_
  bool stopped_ = false;      // guarded by mutex_
  std::thread thread_;        // started with the first check
};

}  // namespace engram
