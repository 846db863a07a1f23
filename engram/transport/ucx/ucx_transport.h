// The reader's side over UCX.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "engram/security/tls_identity.h"
#include "engram/transport/landing_memory.h"
#include "engram/transport/read_way.h"
#include "engram/transport/row_reader.h"

namespace engram {

struct UcxTransportOptions {
  // A way that is forced and not possible refuses the session (kFailedPrecondition, with the
  // reason).
  ReadWay way = ReadWay::kAuto;
  // What rows travel over: "auto", "tcp" (and nothing else: never shared memory), "shm", or a
  // UCX_TLS list.
  std::string tls = "auto";
  // The context for one-sided reads: "off", "rdma", "shm" (to exercise it without a card).
  std::string one_sided = "off";
  // Where one-sided reads put their rows (RowChunk::landed), CheckLanding having found that they
  // can; null = into memory of the host.
  LandingMemory* landing = nullptr;
  std::chrono::milliseconds open_timeout{5000};  // of a session, all steps together
  // A node that answers neither leases nor reads this long is lost (kPeerLost).
  std::chrono::milliseconds keep_alive{2000};
  std::chrono::microseconds spin_max{50};  // a reader looks for work this long before it sleeps
  ChannelSecurity security;                // of the control connections; rows are not encrypted
  // Sessions with the same number are one client to a node. 0 = a random one for all its readers.
  uint64_t client_id = 0;
  // The newest session token for a node's data address; empty: none is known. Thread-safe, and
  // asked again before a session lapses. Null = development mode.
  std::function<std::string(TableVersion version, const std::string& address)> token_of = nullptr;
};

// Owns one control thread for all its readers' control connections.
class UcxTransport {
 public:
  // ERRORS: kInvalidArgument naming the option, kUnavailable (no such transport here).
  [[nodiscard]] static Result<std::unique_ptr<Transport>> Create(
      const UcxTransportOptions& options);
  // Whether one-sided reads as `options` has them put bytes into `options.landing`: tries it, with
  // a network card of this host that reads this host's memory. Takes up to a few seconds. ERRORS:
  // kFailedPrecondition saying what is missing.
  [[nodiscard]] static Status CheckLanding(const UcxTransportOptions& options);
};

}  // namespace engram
