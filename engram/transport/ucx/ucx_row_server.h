// The memory node's side over UCX: regions, gather threads, and the control connection that opens
// sessions (docs/formats/session.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "engram/security/audit_log.h"
#include "engram/security/session_token.h"
#include "engram/security/tls_identity.h"
#include "engram/transport/row_server.h"

namespace engram {

struct RowServerTestHooks;

struct UcxRowServerOptions {
  // "host:port" of the control connection; port 0 = any free one.
  std::string listen_address = "127.0.0.1:0";
  // Host that readers are told; empty = the one listened on.
  std::string advertised_host;
  Incarnation incarnation;  // not 0
  // What rows travel over: "auto", "tcp" (and nothing else), "shm", or a UCX_TLS list.
  std::string tls = "auto";
  uint32_t gather_threads = 1;
  std::chrono::milliseconds lease{2000};  // 0 = no leases: readers gather only
  // The context that answers one-sided reads: "off", "rdma" (network cards; trusted fabrics only,
  // it answers any peer's reads and writes), "shm" (shared memory, to exercise it without a card).
  // Off again, with a reason, where there is no device or the self-test does not complete.
  std::string one_sided = "off";
  std::chrono::microseconds spin_max{50};  // a thread looks for work this long before it sleeps
  uint32_t sessions_max = 4096;
  // Rows of reads that may wait for their turn, over all threads (ReadQueue::Options::rows_max).
  uint64_t waiting_rows_max = 1u << 20;
  // A session that takes none of its answers for this long is ended. As long as a client waits for
  // an answer before it gives the session up (SchedulerOptions::read_silence_max).
  std::chrono::milliseconds slow_reader_max{3000};
  bool fair_reads = true;           // false: answered in the order they came, to be compared with
  ChannelSecurity security;         // of the control connection; rows are not encrypted
  std::shared_ptr<AuditLog> audit;  // gets who was refused; null = nobody does
  // Readers must show a token that one of these signed; null = development mode, nobody must.
  std::shared_ptr<const TokenKeys> token_keys;
  // Null in production; must outlive the server.
  RowServerTestHooks* test_hooks = nullptr;
};

class UcxRowServer : public RowServer {
 public:
  // ERRORS: kInvalidArgument naming the option, kUnavailable (no such transport here, or no
  // link at the host's interface for 10 s), kIo (the port is taken).
  [[nodiscard]] static Result<std::unique_ptr<UcxRowServer>> Create(
      const UcxRowServerOptions& options);

  // Why one-sided or mapped reads are off, for the log; empty = neither is.
  [[nodiscard]] virtual std::string ways_off() const = 0;
};

}  // namespace engram
