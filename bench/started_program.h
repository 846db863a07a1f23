// A program that the benchmark starts to measure it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sys/types.h>

#include "engram/base/status.h"

namespace engram::bench {

// A TCP port of 127.0.0.1 that was free a moment ago. ERRORS: kIo.
[[nodiscard]] Result<uint16_t> FreePort();

// The path of program `name`: as it is if it has a '/', else out of PATH.
// ERRORS: kNotFound.
[[nodiscard]] Result<std::string> FindProgram(const std::string& name);

// Killed and reaped with its object; killed by the kernel if this process ends without that, or if
// the thread that started it does. Thread-compatible. Movable.
class StartedProgram {
 public:
  // argv[0] as for FindProgram. What it prints is kept for errors.
  // ERRORS: kNotFound, kIo.
  [[nodiscard]] static Result<StartedProgram> Start(std::vector<std::string> argv);
  StartedProgram(StartedProgram&& other) noexcept;
  StartedProgram& operator=(StartedProgram&&) = delete;
  ~StartedProgram();

  [[nodiscard]] pid_t pid() const { return pid_; }
  // Returns when something listens at 127.0.0.1:`port`.
  // ERRORS: kUnavailable with what it printed last, if it ended; kDeadlineExceeded after 30 s.
  [[nodiscard]] Status AwaitListening(uint16_t port);
  // Returns when it has ended. ERRORS: kUnavailable with what it printed last, unless it exited
  // with 0.
  [[nodiscard]] Status AwaitEnd();

 private:
  StartedProgram(std::string name, int output) : name_(std::move(name)), output_(output) {}
  [[nodiscard]] std::string LastOutput() const;

  std::string name_;
  int output_;      // owned; a file without a name
  pid_t pid_ = -1;  // -1: none, or reaped
};

}  // namespace engram::bench
