// What else would hold the rows: a store or service that users have already, asked through its own
// client library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engram/base/status.h"

namespace engram::bench {

// Row `id` is MakeUpRow(RowAddress(id)).
struct PeerTable {
  uint64_t rows = 0;  // ids 0 to rows - 1
  uint32_t row_bytes = 0;
};

// How a batch is asked for.
struct PeerSetting {
  uint32_t threads = 1;      // of the server's kind that a user may set
  uint32_t connections = 1;  // which the messages of a batch take in turn, all by one thread
  uint32_t rows_max = 0;     // of one message

  friend bool operator==(const PeerSetting&, const PeerSetting&) = default;
};

// Those worth a try for batches of `rows`: every one of `servers` (rows_max left open) with
// messages of each of `sizes`, but none longer than what a connection gets of the batch, and none
// twice.
[[nodiscard]] std::vector<PeerSetting> PeerSettings(std::span<const PeerSetting> servers,
                                                    std::span<const uint32_t> sizes, uint32_t rows);

// "1 connection", "4 connections".
[[nodiscard]] std::string ConnectionsOf(const PeerSetting& setting);

// Servers with every row of the table, in processes of their own that end with it, and a client.
// Thread-compatible: like ours, its client has one thread that asks.
class Peer {
 public:
  virtual ~Peer() = default;
  [[nodiscard]] virtual std::string version() const = 0;  // of server and client library
  [[nodiscard]] virtual std::vector<PeerSetting> Settings(uint32_t rows) const = 0;
  [[nodiscard]] virtual std::string Describe(const PeerSetting& setting) const = 0;

  // Connects, and reads so from now on. ERRORS: kUnavailable.
  [[nodiscard]] virtual Status Use(const PeerSetting& setting) = 0;
  // Reads rows into `out` [ids.size(), row_bytes], in the order of `ids`.
  // Precondition: Use. ERRORS: kNotFound (a row is missing), kPeerLost.
  [[nodiscard]] virtual Status Read(std::span<const uint64_t> ids, std::byte* out) = 0;
};

inline constexpr const char* kPeerNames[] = {"redis", "memcached", "grpc"};

// Starts servers on free ports of 127.0.0.1 and loads every row, before this process has threads
// that hold locks.
//   name  one of kPeerNames
// ERRORS: kFailedPrecondition if this build has no client of it, or its server is not installed,
// naming the Debian packages; kUnavailable with what the server said.
[[nodiscard]] Result<std::unique_ptr<Peer>> StartPeer(const std::string& name,
                                                      const PeerTable& table);

// One file each; only those whose client library the build found (bench/CMakeLists.txt).
[[nodiscard]] Result<std::unique_ptr<Peer>> StartRedis(const PeerTable& table);
[[nodiscard]] Result<std::unique_ptr<Peer>> StartMemcached(const PeerTable& table);
[[nodiscard]] Result<std::unique_ptr<Peer>> StartGrpcRows(const PeerTable& table);

}  // namespace engram::bench
