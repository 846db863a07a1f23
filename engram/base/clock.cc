#include "engram/base/clock.h"

namespace engram {
namespace {
class SteadyClockImpl final : public Clock {
 public:
  [[nodiscard]] MonotonicTime Now() const override { return std::chrono::steady_clock::now(); }
};
}  // namespace

const Clock& SteadyClock() {
  static const SteadyClockImpl clock;
  return clock;
}

}  // namespace engram
