// Bytes that are no conversation, at the control and HTTP ports.
#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include <openssl/ssl.h>

#include "tests/hostile/attack.h"
#include "tests/hostile/wire.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct Port {
  const std::string* address;
  bool http;
};
std::array<Port, 4> Ports(const Victim& victim) {
  return {{{&victim.coordinator, false},
           {&victim.node, false},
           {&victim.coordinator_http, true},
           {&victim.node_http, true}}};
}

// What a peer that sent no good call must not get. `open`: an HTTP path for everybody.
void Judge(const Victim& victim, bool http, bool open, const std::string& answer, Tally& tally) {
  if (answer.empty()) return tally.Answer("closed or silent");
  if (http) {
    const std::string status = answer.substr(0, std::min<size_t>(12, answer.find('\r')));
    tally.Answer(status.starts_with("HTTP/1.") ? status : "other bytes");
    if (victim.tls() && !open && status.ends_with(" 200")) {
      tally.Violation("a page without a certificate: " + answer.substr(0, 200));
    }
    return;
  }
  tally.Answer("a frame or alert");
  proto::Frame frame;
  if (answer.size() > 4 &&
      frame.ParseFromArray(answer.data() + 4, static_cast<int>(answer.size()) - 4) &&
      frame.call_id() != 0 && frame.code() == proto::OK) {
    tally.Violation("a call answered to rubbish");
  }
}

Wire::Options Quick(const Victim& victim, Dice& dice, milliseconds patience = milliseconds(200)) {
  Wire::Options options;
  options.patience = patience;
  options.reset = dice.OneIn(2);
  if (victim.tls() && dice.OneIn(8)) {
    options.tls = true;
    options.identity = victim.holder("reader").identity;
  }
  return options;
}

void RandomBytes(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const auto ports = Ports(victim);
  while (order.Goes(tally)) {
    const Port& port = ports[dice.Below(ports.size())];
    const auto wire = Wire::Connect(*port.address, Quick(victim, dice));
    if (wire == nullptr) {
      ++tally.messages;
      tally.Answer("not let in");
      continue;
    }
    for (uint64_t chunks = 1 + dice.Below(3); chunks > 0; --chunks) {
      ++tally.messages;
      if (!wire->Send(dice.Bytes(1 + dice.Below(dice.OneIn(50) ? 100000 : 200)))) break;
    }
    // Mostly it waits for more, which does not come.
    if (dice.OneIn(16)) Judge(victim, port.http, false, wire->Receive(), tally);
  }
}

void BrokenFrames(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const std::array addresses = {victim.coordinator, victim.node};
  while (order.Goes(tally)) {
    const auto wire = Wire::Connect(addresses[dice.Below(2)], Quick(victim, dice));
    ++tally.messages;
    if (wire == nullptr) {
      tally.Answer("not let in");
      continue;
    }
    proto::Frame frame;
    frame.set_call_id(dice.Edge());
    frame.set_method(dice.OneIn(2) ? "session.Open" : dice.Bytes(dice.Below(300)));
    frame.set_body(dice.Bytes(dice.Below(100)));
    if (dice.OneIn(3)) frame.set_leader("127.0.0.1:1");
    if (dice.OneIn(3)) frame.set_code(proto::INTERNAL);
    const std::string good = frame.SerializeAsString();
    const auto length = static_cast<uint32_t>(good.size());
    std::string bytes;
    switch (dice.Below(5)) {
      case 0:  // a length that cannot be
        bytes = FrameBytes(static_cast<uint32_t>(dice.Edge()), good);
        break;
      case 1:  // the longest that can, and little of it
        bytes = FrameBytes(64u << 20, good);
        break;
      case 2:  // cut off
        bytes = FrameBytes(length, good).substr(0, dice.Below(length + 4));
        break;
      case 3:
        bytes = FrameBytes(length, dice.Damaged(good));
        break;
      default:  // no body, no method, the fields of a reply
        frame.clear_method();
        bytes = FrameBytes(static_cast<uint32_t>(frame.ByteSizeLong()), frame.SerializeAsString());
        break;
    }
    (void)wire->Send(bytes);
    if (dice.OneIn(16)) Judge(victim, false, false, wire->Receive(), tally);
  }
}

void HttpRubbish(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const std::array addresses = {victim.coordinator_http, victim.node_http};
  while (order.Goes(tally)) {
    Wire::Options options = Quick(victim, dice, milliseconds(100));
    options.identity = nullptr;  // whoever has a certificate may look
    const bool speaks = options.tls || !victim.tls();
    const auto wire = Wire::Connect(addresses[dice.Below(2)], options);
    if (wire == nullptr) {
      ++tally.messages;
      tally.Answer("not let in");
      continue;
    }
    for (uint64_t requests = 1 + dice.Below(8); requests > 0; --requests) {
      constexpr std::array kPaths = {"/metrics",        "/status",   "/healthz",
                                     "/readyz",         "/debug",    "/%2e%2e/x",
                                     "/test/pause",     "//healthz", "/healthz/../metrics",
                                     "/metrics?/readyz"};
      const std::string path = kPaths[dice.Below(kPaths.size())];
      const bool open = path == "/healthz" || path == "/readyz";
      std::string text = (dice.OneIn(3) ? "POST " : "GET ") + path + " HTTP/1.1\r\nHost: x\r\n";
      const uint64_t kind = dice.Below(6);
      if (kind == 0) text += "Content-Length: " + std::to_string(dice.Edge()) + "\r\n";
      if (kind == 1) text += "X: " + std::string(dice.Below(40000), 'y') + "\r\n";
      if (kind == 2) text += "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n";
      text += "\r\n";
      if (kind == 2) text += "fffffffff\r\n" + dice.Bytes(20);
      if (kind == 3) text = dice.Damaged(text);
      ++tally.messages;
      if (!wire->Send(text) || !speaks) break;
      const std::string answer = wire->Receive();
      Judge(victim, true, open, answer, tally);
      // After a request that is not whole an answer would not be that of the next one.
      if (kind <= 3) break;
      if (answer.empty()) break;
    }
  }
}

// Whoever speaks another language than the port does, or shows papers of another country.
void WrongProtocol(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const auto ports = Ports(victim);
  while (order.Goes(tally)) {
    const Port& port = ports[dice.Below(ports.size())];
    Wire::Options options;
    options.patience = milliseconds(1000);
    const uint64_t kind = dice.Below(4);
    options.tls = kind != 0;
    if (kind == 2 && victim.tls()) options.identity = victim.holder("foreign").identity;
    if (kind == 3) options.tls_version_max = TLS1_2_VERSION;
    const auto wire = Wire::Connect(*port.address, options);
    ++tally.messages;
    if (wire == nullptr) {
      tally.Answer("not let in");
      continue;
    }
    proto::Frame frame;
    frame.set_call_id(1);
    frame.set_method("admin.GetStatus");
    // In development mode this would be a call that may be made.
    const std::string call = victim.tls() ? frame.SerializeAsString() : dice.Bytes(20);
    const bool sent = wire->Send(port.http ? "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
                                           : FrameBytes(static_cast<uint32_t>(call.size()), call));
    const bool judged = victim.tls() || options.tls;
    if (sent && judged) Judge(victim, port.http, false, wire->Receive(), tally);
  }
}

// Connections by the thousand, of which nothing comes.
void Connects(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const auto ports = Ports(victim);
  std::vector<std::unique_ptr<Wire>> held;
  while (order.Goes(tally)) {
    Wire::Options options;
    options.reset = dice.OneIn(2);
    auto wire = Wire::Connect(*ports[dice.Below(ports.size())].address, options);
    ++tally.messages;
    tally.Answer(wire == nullptr ? "not let in" : "connected");
    if (wire == nullptr) continue;
    if (dice.OneIn(3)) (void)wire->Send(dice.Bytes(1 + dice.Below(4)));
    held.push_back(std::move(wire));
    if (held.size() >= 2000) held.clear();
  }
}

// Connections that say nothing, or a byte at a time: they are closed, though nobody is in a hurry.
void Silent(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const auto ports = Ports(victim);
  struct Held {
    std::unique_ptr<Wire> wire;
    std::string says;
    size_t said = 0;
  };
  std::vector<Held> held;
  while (tally.messages < std::min<uint64_t>(order.messages, 200)) {
    ++tally.messages;
    const Port& port = ports[tally.messages % ports.size()];
    Held each{Wire::Connect(*port.address), "", 0};
    if (each.wire == nullptr) {
      tally.Answer("not let in");
      continue;
    }
    switch (dice.Below(3)) {
      case 0:  // not a word
        break;
      case 1:  // a TLS greeting's first bytes, which promise 512 more
        each.says =
            std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + dice.Bytes(300);
        break;
      default:
        each.says = port.http ? "GET /metrics HTTP/1.1\r\nHost: " + std::string(500, 'x')
                              : FrameBytes(1000, std::string(900, '\x0a'));
        break;
    }
    held.push_back(std::move(each));
  }
  // The longest that any port waits for a word, and as long again: machines are busy.
  const auto end = std::chrono::steady_clock::now() + seconds(60);
  while (!held.empty() && std::chrono::steady_clock::now() < end) {
    std::erase_if(held, [&](Held& each) {
      if (each.said < each.says.size()) (void)each.wire->Send(each.says.substr(each.said++, 1));
      const bool closed = each.wire->ClosedWithin(milliseconds(0));
      if (closed) tally.Answer("closed by the server");
      return closed;
    });
    std::this_thread::sleep_for(milliseconds(100));
  }
  for (size_t i = 0; i < held.size(); ++i) tally.Violation("a silent connection was kept open");
}

}  // namespace

std::vector<Attack> ByteAttacks() {
  return {
      {"random-bytes", "random bytes at every port, plain and inside TLS", 2, RandomBytes},
      {"broken-frames", "frames cut off, of impossible lengths, damaged", 2, BrokenFrames},
      {"http-rubbish", "requests damaged, too long, for what is not theirs", 2, HttpRubbish},
      {"wrong-protocol", "plain to TLS, TLS to plain, TLS 1.2, no or foreign certificates", 0.3,
       WrongProtocol},
      {"connects", "connections by the thousand that say nothing", 1, Connects},
      {"silent", "connections that say nothing or a byte at a time, until they are closed", 0,
       Silent},
  };
}

}  // namespace engram::test
