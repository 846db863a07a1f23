// The ports that UCX opens for TCP, and what goes over them.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <sys/types.h>

namespace engram::test {

// On which this process listens, but for `known` ("host:port").
[[nodiscard]] std::vector<uint16_t> ListeningPorts(pid_t pid,
                                                   const std::vector<std::string>& known);

// Takes connections at a port of its own and keeps what the callers say. What they say first goes
// on to `port` of loopback, and the answer back: the rest goes nowhere. (UCX's endpoints tell each
// other their addresses next, find that they have a relay between them, and end both processes.)
class RecordingRelay {
 public:
  explicit RecordingRelay(uint16_t port);
  ~RecordingRelay();
  RecordingRelay(const RecordingRelay&) = delete;
  RecordingRelay& operator=(const RecordingRelay&) = delete;
  [[nodiscard]] uint16_t own_port() const { return own_port_; }
  // Of each connection; the relay works on.
  [[nodiscard]] std::vector<std::string> said() const;

 private:
  void Run();

  const uint16_t port_;
  int listener_ = -1;  // owned
  uint16_t own_port_ = 0;
  mutable std::mutex mutex_;
  std::vector<std::string> said_;  // guarded by mutex_
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace engram::test
