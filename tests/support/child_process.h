// Real processes for integration tests. Each is killed and reaped when its object goes. What a
// sanitizer reported in one fails the running test, even if the process was killed thereafter.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include <sys/types.h>

#include "engram/base/status.h"

namespace engram::test {

// One child process. Thread-compatible. Movable; the destructor sends SIGKILL and reaps.
class ChildProcess {
 public:
  // argv[0] is the program's path. Standard output and error go to `log_file` (appended).
  [[nodiscard]] static Result<ChildProcess> Start(const std::vector<std::string>& argv,
                                                  const std::filesystem::path& log_file);
  ChildProcess() = default;
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool running();
  void Signal(int signal);
  // Sends `signal`, waits for the end, SIGKILL after `patience`. The exit status as a shell tells
  // it (128 + signal number for a signal).
  int Stop(int signal, std::chrono::milliseconds patience = std::chrono::seconds(20));
  // Waits for the end by itself; -1 after `patience`.
  int Wait(std::chrono::milliseconds patience);

 private:
  bool Reap(bool block);
  pid_t pid_ = -1;
  std::filesystem::path log_file_;
  int exit_status_ = -1;
};

struct CommandOutput {
  int exit_status = -1;
  std::string out;  // standard output
  std::string err;  // standard error
};
// Runs a program to its end.
[[nodiscard]] CommandOutput RunCommand(const std::vector<std::string>& argv,
                                       std::chrono::milliseconds patience);

[[nodiscard]] std::string ReadFile(const std::filesystem::path& file);

// A fresh folder, removed with everything in it at the end.
class ScratchDir {
 public:
  ScratchDir();
  ~ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace engram::test
