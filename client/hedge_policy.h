// When a read is late enough to be asked of another replica too, and how often that may happen.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "client/read_times.h"
#include "engram/base/clock.h"

namespace engram {

struct HedgeOptions {
  // Late is twice the 99th percentile of reads of about the same size, but within these. A loaded
  // machine is late by a millisecond every other moment; a batch can bear 50 ms.
  Duration late_min = std::chrono::milliseconds(1);
  Duration late_max = std::chrono::milliseconds(50);
  // Of late reads at nodes that answer at all, at most one in this many reads is hedged.
  // 0 = nothing is ever hedged.
  uint32_t reads_per_hedge = 20;
  uint32_t burst_max = 8;  // hedges that may be saved up

  [[nodiscard]] bool Valid() const {
    return late_min > Duration() && late_min <= late_max && burst_max <= 1000 &&
           reads_per_hedge <= 1000;
  }
};

// A token bucket and the distribution of read times. Pure: time is an input. Allocates nothing.
// Thread-compatible.
class HedgePolicy {
 public:
  // Precondition: options.Valid().
  explicit HedgePolicy(const HedgeOptions& options)
      : options_(options), tokens_(options.burst_max * options.reads_per_hedge) {}

  [[nodiscard]] const HedgeOptions& options() const { return options_; }
  [[nodiscard]] bool enabled() const { return options_.reads_per_hedge != 0; }

  void OnReadPosted() {
    if (tokens_ < options_.burst_max * options_.reads_per_hedge) ++tokens_;
  }
  // A read of `rows` rows came back whole after `took`.
  void OnReadAnswered(uint32_t rows, Duration took) { times_[ClassOf(rows)].Add(took); }

  // A read of `rows` rows without an answer for this long is late.
  [[nodiscard]] Duration LateAfter(uint32_t rows) const;
  // A node that answers nothing for this long, with such a read in flight, hangs: against it there
  // is no budget. At least late_max, and at most four times that where reads usually take long: a
  // slow wire must not be asked for everything twice.
  [[nodiscard]] Duration HangsAfter(uint32_t rows) const;

  [[nodiscard]] bool MayHedge() const { return enabled() && tokens_ >= options_.reads_per_hedge; }
  // Precondition: MayHedge().
  void SpendHedge() { tokens_ -= options_.reads_per_hedge; }

 private:
  static constexpr size_t kSizeClasses = 5;  // up to 16, 64, 256, 1,024 rows, and more
  [[nodiscard]] static size_t ClassOf(uint32_t rows) {
    const size_t place = (static_cast<size_t>(std::bit_width((rows - 1) / 16)) + 1) / 2;
    return place < kSizeClasses ? place : kSizeClasses - 1;
  }

  const HedgeOptions options_;
  uint32_t tokens_;  // a read earns one, a hedge costs reads_per_hedge
  std::array<ReadTimes, kSizeClasses> times_;
};

}  // namespace engram
