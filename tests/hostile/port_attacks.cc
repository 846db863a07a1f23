// Bytes at the port that UCX listens on, which asks nobody who they are. From a host that has a
// session (this one), or, "from elsewhere", from one that has none.
#include <cstring>
#include <thread>
#include <utility>

#include "tests/hostile/attack.h"
#include "tests/hostile/ucx_ports.h"
#include "tests/hostile/wire.h"
#include "tests/support/rude_peer.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;

// Of loopback, and no interface's: nobody has a session from there.
constexpr const char* kElsewhere = "127.0.0.2";

std::vector<std::string> PortsOf(const Victim& victim) {
  std::vector<std::string> addresses;
  if (victim.node_pid == 0) return addresses;
  for (const uint16_t port : ListeningPorts(victim.node_pid, {victim.node, victim.node_http})) {
    addresses.push_back("127.0.0.1:" + std::to_string(port));
  }
  return addresses;
}

void PortRubbish(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const auto ports = PortsOf(victim);
  if (ports.empty()) return tally.Answer("no such port");
  while (order.Goes(tally)) {
    Wire::Options options;
    options.patience = milliseconds(100);
    options.source = dice.OneIn(2) ? kElsewhere : "";
    options.reset = dice.OneIn(2);
    const auto wire = Wire::Connect(ports[dice.Below(ports.size())], options);
    ++tally.messages;
    tally.Answer(wire == nullptr ? "not let in" : "connected");
    if (wire == nullptr) continue;
    (void)wire->Send(dice.Bytes(1 + dice.Below(200)));
    if (dice.OneIn(16)) (void)wire->Receive();
  }
}

void PortConnects(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const auto ports = PortsOf(victim);
  if (ports.empty()) return tally.Answer("no such port");
  std::vector<std::unique_ptr<Wire>> held;
  while (order.Goes(tally)) {
    Wire::Options options;
    options.source = dice.OneIn(2) ? kElsewhere : "";
    options.reset = dice.OneIn(2);
    held.push_back(Wire::Connect(ports[dice.Below(ports.size())], options));
    ++tally.messages;
    tally.Answer(held.back() == nullptr ? "not let in" : "connected");
    if (held.size() >= 500) held.clear();
  }
}

// What a reader's UCX says to a node's, over one session and some reads.
std::vector<std::string> Recording(const Victim& victim, Tally& tally) {
  std::vector<std::string> said;
  for (const uint16_t port : ListeningPorts(victim.node_pid, {victim.node, victim.node_http})) {
    RecordingRelay relay(port);
    const std::string wanted = {static_cast<char>(port >> 8), static_cast<char>(port & 0xff)};
    const auto token = victim.Token("reader");
    auto peer = RudePeer::Create(victim.target,
                                 {.security = victim.holder("reader"),
                                  .token = token.value_or(""),
                                  .sends_to = [&](std::string address) {
                                    for (size_t at = address.find(wanted); at != std::string::npos;
                                         at = address.find(wanted, at + 2)) {
                                      address[at] = static_cast<char>(relay.own_port() >> 8);
                                      address[at + 1] = static_cast<char>(relay.own_port() & 0xff);
                                    }
                                    return address;
                                  }});
    if (!peer.has_value()) {
      tally.Answer("no session: " + std::string(StatusCodeName(peer.error().code())));
      continue;
    }
    for (int i = 0; i < 8; ++i) {
      (*peer)->Send(GatherMessageId::kRequest, (*peer)->GoodHeader(), 8);
      (*peer)->Send(GatherMessageId::kRequest, (*peer)->GoodHeader(), 64 << 10, /*eager=*/false);
      (*peer)->Send(GatherMessageId::kLeaseRequest,
                    (*peer)->GoodLease(static_cast<uint64_t>(i) + 1), 0);
    }
    (void)(*peer)->Drive([] { return false; }, milliseconds(200));
    peer->reset();
    for (std::string& one : relay.said()) {
      if (!one.empty()) said.push_back(std::move(one));
    }
  }
  return said;
}

// A right beginning, with any kind of rubbish after it.
void Replay(const Victim& victim, const Order& order, Dice& dice, Tally& tally,
            const std::string& source) {
  const auto ports = PortsOf(victim);
  if (ports.empty()) return tally.Answer("no such port");
  const auto recordings = Recording(victim, tally);
  tally.answers["recorded"] = recordings.size();
  if (recordings.empty()) return;
  while (order.Goes(tally)) {
    Wire::Options options;
    options.patience = milliseconds(50);
    options.source = source;
    options.reset = dice.OneIn(2);
    const auto wire = Wire::Connect(ports[dice.Below(ports.size())], options);
    ++tally.messages;
    tally.Answer(wire == nullptr ? "not let in" : "connected");
    if (wire == nullptr) continue;
    std::string bytes = recordings[dice.Below(recordings.size())];
    bytes.resize(dice.Below(bytes.size() + 1));
    const size_t kept = 8 + dice.Below(bytes.size() + 1);
    if (bytes.size() > kept && dice.OneIn(2)) {
      bytes = bytes.substr(0, kept) + dice.Damaged(bytes.substr(kept));
    }
    if (dice.OneIn(4)) bytes += dice.Bytes(dice.Below(100));
    if (wire->Send(bytes) && dice.OneIn(8)) (void)wire->Receive();
  }
}

void PortReplay(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  Replay(victim, order, dice, tally, kElsewhere);
}

void PortReplayInside(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  Replay(victim, order, dice, tally, "");
}

}  // namespace

std::vector<Attack> PortAttacks() {
  return {
      {"port-rubbish", "random bytes at UCX's own TCP port", 1, PortRubbish},
      {"port-connects", "connections to UCX's own TCP port that say nothing", 0.5, PortConnects},
      {"port-replay", "from elsewhere, what a reader's UCX said, cut off and damaged", 1,
       PortReplay},
      {"inside-replay", "the same from a host that has a session", 1, PortReplayInside},
  };
}

}  // namespace engram::test
