// engram-shard-server's command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engram/base/status.h"
#include "engram/security/security_flags.h"

namespace engram {

struct NodeOptions {
  std::string id;
  std::string zone;
  std::string coordinator;
  std::string listen = "127.0.0.1:7100";
  std::string advertise;  // empty: the host of `listen`, or this machine's name where that is any
  std::string http = "127.0.0.1:7101";
  uint64_t memory_bytes = 0;
  uint32_t gather_threads = 1;
  uint32_t spin_us = 50;
  uint32_t sessions_max = 4096;
  uint64_t waiting_rows_max = 1u << 20;
  std::string transport = "auto";
  std::string one_sided = "off";
  uint32_t lease_ms = 2000;
  uint32_t release_patience_ms = 30000;
  uint64_t scrub_bytes_per_s = 64 << 20;  // 0 = no scrub
  std::string announce_file;
  std::string log_level = "info";
  bool enable_test_hooks = false;
  SecurityFlags security;
  std::string audit_log;
};

// Reads the command line, or ends with an exit code (after --help, --version or a complaint).
struct ParsedOptions {
  NodeOptions options;
  std::optional<int> exit_code;
};
[[nodiscard]] ParsedOptions ParseNodeOptions(int argc, const char* const* argv);

// What the parser cannot see. ERRORS: kInvalidArgument naming flag and fix.
[[nodiscard]] Status CheckNodeOptions(const NodeOptions& options);

// The host that others are told, for an address listened on.
[[nodiscard]] std::string AdvertisedHost(const NodeOptions& options, const std::string& machine);

}  // namespace engram
