// Row servers and readers inside one process, for tests: the transport's contract without a
// network, and switches for what networks do to it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "engram/base/clock.h"
#include "engram/base/strong_id.h"
#include "engram/transport/row_reader.h"
#include "engram/transport/row_server.h"

namespace engram {

namespace loopback {
class Wire;
}

// Named addresses that servers listen on and readers open. Thread-safe. Deterministic: a reader's
// events come only from its Progress(), in the order of its calls. Servers, transports and readers
// may outlive the network.
class LoopbackNetwork {
 public:
  // `clock` decides when delayed reads arrive; it must outlive everything made here.
  explicit LoopbackNetwork(const Clock& clock = SteadyClock());

  // A node that listens on `address` ("host:port" or any other name). A second server on an address
  // takes it over, as a restarted node would: sessions with the first end with kPeerLost.
  // Destroying a server is losing the node.
  [[nodiscard]] std::unique_ptr<RowServer> CreateServer(const std::string& address,
                                                        Incarnation incarnation);
  [[nodiscard]] std::unique_ptr<Transport> CreateTransport();

  // The switches below name an address; they hold for whoever listens there, now or later.

  // Killed: its sessions end with kPeerLost, and new ones fail with kUnavailable until another
  // server is created on the address. Its RowServer object stays usable and reaches nobody.
  void Lose(const std::string& address);
  // Stopped: nothing is answered, neither sessions nor reads, until Release.
  void Hold(const std::string& address);
  void Release(const std::string& address);
  // Every read that is posted from now on is answered this much later.
  void SetDelay(const std::string& address, Duration delay);
  // Of the next `rows` rows read, one bit each is flipped on the way.
  void CorruptRows(const std::string& address, uint64_t rows);
  // New sessions are refused with this code; kOk = accepted again.
  void RefuseSessions(const std::string& address, StatusCode code);
  // The next `reads` reads end with this code and no rows.
  void FailReads(const std::string& address, uint64_t reads, StatusCode code);

 private:
  std::shared_ptr<loopback::Wire> wire_;
};

}  // namespace engram
