// One memory node with made-up rows in a process of its own, for engram-bench read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <sys/types.h>

#include "engram/base/status.h"
#include "engram/table/table_layout.h"

namespace engram::bench {

inline constexpr TableVersion kBenchVersion{1};
inline constexpr ModelIdentity kBenchIdentity{0xbe};

// The bytes of a made-up row: word i of row `address` (a fast, invertible mix, so that a wrong row
// is seen without keeping a copy).
[[nodiscard]] uint64_t MadeUpWord(RowAddress address, uint32_t word);

// Ended and reaped with it. Create before the process has threads.
class ReadNode {
 public:
  struct Options {
    std::string transport = "tcp";  // UcxRowServerOptions::tls
    std::string one_sided = "off";
    uint32_t gather_threads = 1;
  };
  // Forks; the child fills a node with the layout's rows and serves them until this object goes.
  // ERRORS: kIo, kUnavailable with the child's reason.
  [[nodiscard]] static Result<std::unique_ptr<ReadNode>> Start(
      const Options& options, const std::shared_ptr<const TableLayout>& layout);
  ~ReadNode();
  ReadNode(const ReadNode&) = delete;
  ReadNode& operator=(const ReadNode&) = delete;

  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] Incarnation incarnation() const {
    return Incarnation(static_cast<uint64_t>(child_));
  }
  // CPU time of the child so far, in seconds.
  [[nodiscard]] double CpuSeconds() const;

 private:
  ReadNode(pid_t child, int channel) : child_(child), channel_(channel) {}
  pid_t child_;
  int channel_;  // owned; the child ends when it closes
  std::string address_;
};

}  // namespace engram::bench
