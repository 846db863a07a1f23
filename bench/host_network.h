// Several hosts on this machine, so that what crosses a network is measured as such: each a network
// and an IPC namespace of its own, joined by a switch, with links of a bounded rate and a round
// trip. Linux, root, the programs ip and tc.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/delay_relay.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram::bench {

struct NetworkOptions {
  // Of each host's link, in each direction, as tc takes it ("10gbit"); empty = unbounded.
  std::string rate;
  // Between this process's host and any other; added to what the links take anyway.
  std::chrono::microseconds round_trip{0};

  // Whether there is a network at all.
  [[nodiscard]] bool any() const { return !rate.empty() || round_trip.count() > 0; }
};

// ERRORS: kInvalidArgument naming the option: rows go over a network, or the rate is none.
[[nodiscard]] Status CheckNetwork(const NetworkOptions& options, const std::string& transport);

// Host 0 is this process's, the others are for children. Everything goes with the process and the
// children. Thread-compatible.
class HostNetwork {
 public:
  // Moves this process into host 0 for good. Precondition: it has one thread.
  // ERRORS: kUnavailable with what was refused, or what ip or tc said.
  [[nodiscard]] static Result<std::unique_ptr<HostNetwork>> Create(const NetworkOptions& options,
                                                                   uint32_t host_count);
  ~HostNetwork();
  HostNetwork(const HostNetwork&) = delete;
  HostNetwork& operator=(const HostNetwork&) = delete;

  [[nodiscard]] uint32_t host_count() const { return static_cast<uint32_t>(hosts_.size()); }
  // "10.77.0.1"
  [[nodiscard]] static std::string AddressOf(uint32_t host);
  // Moves the calling process, a child with one thread, into a host for good.
  [[nodiscard]] Status Enter(uint32_t host) const;

 private:
  struct Namespaces {
    int net = -1;
    int ipc = -1;
  };
  explicit HostNetwork(const NetworkOptions& options) : options_(options) {}
  [[nodiscard]] Status AddSwitch();
  [[nodiscard]] Status AddHost(uint32_t host);
  // A cable between the host and the switch: "eth0" there, "h<host>" here.
  [[nodiscard]] Status Connect(const Namespaces& host_namespaces, const std::string& port,
                               bool delayed);

  const NetworkOptions options_;
  Namespaces switch_;
  std::vector<Namespaces> hosts_;
  std::vector<std::unique_ptr<DelayRelay>> relays_;
};

}  // namespace engram::bench
