#include "bench/delay_relay.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace engram::bench {
namespace {

// Frames taken or given at a time in one direction, so that the other one is not kept waiting.
constexpr int kFramesAtOnce = 64;

// Both directions and their loop, in the relay's process.
class Relay {
 public:
  Relay(int tap_a, int tap_b, int channel, Duration one_way)
      : taps_{tap_a, tap_b},
        channel_(channel),
        to_{DelayedFrames(one_way), DelayedFrames(one_way)} {}

  void Loop() {
    for (;;) {
      Give(0);
      Give(1);
      Take(0);
      Take(1);
      if (!Sleep()) return;
    }
  }

 private:
  // What is due at tap `side`.
  void Give(int side) {
    const MonotonicTime now = std::chrono::steady_clock::now();
    for (int i = 0; i < kFramesAtOnce; ++i) {
      const DelayedFrames::Frame* const frame = to_[side].Due(now);
      if (frame == nullptr) return;
      // A device that takes no more drops it, as a switch does.
      [[maybe_unused]] const ssize_t written = write(taps_[side], frame->bytes.data(), frame->size);
      to_[side].Pop();
    }
  }
  // What came from tap `side`, for the other.
  void Take(int side) {
    DelayedFrames& frames = to_[1 - side];
    for (int i = 0; i < kFramesAtOnce && !frames.full(); ++i) {
      DelayedFrames::Frame frame = frames.TakeBuffer();
      const ssize_t got = read(taps_[side], frame.bytes.data(), DelayedFrames::kFrameBytesMax);
      if (got <= 0) return frames.GiveBack(std::move(frame));
      frame.size = static_cast<size_t>(got);
      frames.Push(std::move(frame), std::chrono::steady_clock::now());
    }
  }
  // False at the end.
  bool Sleep() {
    const MonotonicTime due = std::min(to_[0].NextDue(), to_[1].NextDue());
    timespec timeout{};
    const bool bounded = due != MonotonicTime::max();
    if (bounded) {
      const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(
          std::max(Duration(0), due - std::chrono::steady_clock::now()));
      timeout.tv_sec = left.count() / 1'000'000'000;
      timeout.tv_nsec = left.count() % 1'000'000'000;
    }
    pollfd watched[3] = {{channel_, POLLIN, 0},
                         {taps_[0], static_cast<int16_t>(to_[1].full() ? 0 : POLLIN), 0},
                         {taps_[1], static_cast<int16_t>(to_[0].full() ? 0 : POLLIN), 0}};
    if (ppoll(watched, 3, bounded ? &timeout : nullptr, nullptr) < 0 && errno != EINTR)
      return false;
    return watched[0].revents == 0;  // it never says anything: it ends
  }

  const int taps_[2];
  const int channel_;
  DelayedFrames to_[2];  // [side] frames on their way to that tap
};

}  // namespace

DelayedFrames::Frame DelayedFrames::TakeBuffer() {
  if (unused_.empty()) return {std::vector<std::byte>(kFrameBytesMax)};
  Frame frame = std::move(unused_.back());
  unused_.pop_back();
  return frame;
}

void DelayedFrames::Push(Frame frame, MonotonicTime now) {
  bytes_ += frame.size;
  frames_.push_back({now + delay_, std::move(frame)});
}

const DelayedFrames::Frame* DelayedFrames::Due(MonotonicTime now) const {
  return frames_.empty() || frames_.front().due > now ? nullptr : &frames_.front().frame;
}

void DelayedFrames::Pop() {
  bytes_ -= frames_.front().frame.size;
  unused_.push_back(std::move(frames_.front().frame));
  frames_.pop_front();
}

MonotonicTime DelayedFrames::NextDue() const {
  return frames_.empty() ? MonotonicTime::max() : frames_.front().due;
}

Result<std::unique_ptr<DelayRelay>> DelayRelay::Start(int tap_a, int tap_b, Duration one_way) {
  int channel[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) {
    return Error(StatusCode::kIo, std::string("socketpair: ") + std::strerror(errno));
  }
  const pid_t child = fork();
  if (child < 0) return Error(StatusCode::kIo, std::string("fork: ") + std::strerror(errno));
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1);  // nanosecond; 50 us by default
    close(channel[0]);
    Relay(tap_a, tap_b, channel[1], one_way).Loop();
    _exit(0);
  }
  close(channel[1]);
  close(tap_a);
  close(tap_b);
  return std::unique_ptr<DelayRelay>(new DelayRelay(child, channel[0]));
}

DelayRelay::~DelayRelay() {
  close(channel_);
  kill(child_, SIGKILL);  // it keeps nothing
  waitpid(child_, nullptr, 0);
}

Result<int> OpenTap(const char* name) {
  const auto refused = [name](const char* what) {
    return Error(StatusCode::kUnavailable,
                 std::string("TAP device ") + name + ": " + what + ": " + std::strerror(errno));
  };
  const int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tap < 0) return refused("/dev/net/tun");
  ifreq request{};
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(tap, TUNSETIFF, &request) != 0 ||
      ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) != 0) {
    const auto error = refused("making it");
    close(tap);
    return error;
  }
  return tap;
}

}  // namespace engram::bench
