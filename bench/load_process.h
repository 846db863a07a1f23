// A process whose RawClients read at this program's command.
#pragma once

#include <memory>
#include <string>

#include <sys/types.h>

#include "bench/raw_clients.h"
#include "engram/base/status.h"

namespace engram::bench {

// Ended and reaped with its object. Thread-compatible.
class LoadProcess {
 public:
  // Forks: before this process has threads.
  //   nice  how much the process lets others go first
  // ERRORS: kIo.
  [[nodiscard]] static Result<std::unique_ptr<LoadProcess>> Fork(
      std::shared_ptr<const TableLayout> layout, int nice);
  ~LoadProcess();
  LoadProcess(const LoadProcess&) = delete;
  LoadProcess& operator=(const LoadProcess&) = delete;

  // So many clients of this node, or none, instead of those there were. ERRORS: those of
  // RawClients::Connect.
  [[nodiscard]] Status Connect(const NodeContact& node, uint32_t clients);
  // Starts a run; its outcome is to be awaited before the next call. ERRORS: kPeerLost.
  [[nodiscard]] Status Start(const LoadPlan& plan);
  [[nodiscard]] Result<LoadOutcome> Await();

 private:
  LoadProcess(pid_t child, int channel) : child_(child), channel_(channel) {}
  [[nodiscard]] Status Say(const std::string& line);
  [[nodiscard]] Result<std::string> Hear();

  pid_t child_;
  int channel_;  // owned; the child ends when it closes
};

}  // namespace engram::bench
