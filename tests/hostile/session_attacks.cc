// Opening data sessions with addresses that lie, and leaving them.
#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "engram/rpc/frame.h"
#include "tests/hostile/attack.h"
#include "tests/hostile/wire.h"
#include "tests/support/rude_peer.h"

namespace engram::test {
namespace {

Wire::Options As(const Victim& victim, const std::string& holder) {
  Wire::Options options;
  options.tls = victim.tls();
  options.identity = victim.holder(holder).identity;
  return options;
}

// A worker of our own, whose address is that of a reader.
struct OwnWorker {
  std::unique_ptr<UcxContext> context =
      UcxContext::Create(
          {.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, .tls = "tcp", .name = "rude"})
          .value();
  std::unique_ptr<UcxWorker> worker = UcxWorker::Create(*context).value();
  std::string address = worker->Address().value();
};

// Opens one session; the connection stays as long as the wire.
std::unique_ptr<Wire> OpenOne(const Victim& victim, const proto::OpenSessionRequest& request,
                              Tally& tally) {
  auto wire = Wire::Connect(victim.node, As(victim, "reader"));
  ++tally.messages;
  if (wire == nullptr) {
    tally.Answer("not let in");
    return nullptr;
  }
  proto::Frame frame;
  frame.set_call_id(1);
  frame.set_method("session.Open");
  frame.set_body(request.SerializeAsString());
  if (!wire->SendFrame(frame)) return nullptr;
  const auto reply = wire->ReceiveFrame();
  tally.Answer(!reply.has_value()
                   ? "connection closed"
                   : std::string(StatusCodeName(StatusCodeFromProto(reply->code()))));
  return reply.has_value() ? std::move(wire) : nullptr;
}

void BadAddresses(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  OwnWorker own;
  std::deque<std::unique_ptr<Wire>> held;
  auto token = victim.Token("reader");
  for (uint64_t opened = 1; order.Goes(tally); ++opened) {
    if (opened % 200 == 0) token = victim.Token("reader");
    std::string address;
    switch (dice.Below(4)) {
      case 0:
        address = dice.Bytes(dice.Below(dice.OneIn(10) ? 70000 : 300));
        break;
      case 1:
        address = own.address.substr(0, dice.Below(own.address.size()));
        break;
      case 2:
        address = std::string(dice.Below(200), static_cast<char>(dice.Below(256)));
        break;
      default:
        address = dice.Damaged(own.address);
        break;
    }
    held.push_back(OpenOne(victim, OpenRequest(victim.target, address, token.value_or("")), tally));
    if (held.size() > 16) held.pop_front();
    for (int i = 0; i < 10; ++i) (void)own.worker->Progress();
  }
}

void Abandoned(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  OwnWorker own;
  std::deque<std::unique_ptr<Wire>> held;
  auto token = victim.Token("reader");
  for (uint64_t opened = 1; order.Goes(tally); ++opened) {
    if (opened % 200 == 0) token = victim.Token("reader");
    const auto request = OpenRequest(victim.target, own.address, token.value_or(""));
    if (dice.OneIn(4)) {  // gone before there is an answer
      const auto wire = Wire::Connect(victim.node, As(victim, "reader"));
      ++tally.messages;
      if (wire == nullptr) continue;
      proto::Frame frame;
      frame.set_call_id(1);
      frame.set_method("session.Open");
      frame.set_body(request.SerializeAsString());
      (void)wire->SendFrame(frame);
      tally.Answer("gone before the answer");
    } else {
      held.push_back(OpenOne(victim, request, tally));
    }
    if (held.size() > 64) held.clear();
    if (opened % 16 == 0) (void)own.worker->Progress();
  }
}

}  // namespace

std::vector<Attack> SessionAttacks() {
  return {
      {"bad-addresses", "sessions for UCX workers whose addresses are rubbish", 0.3, BadAddresses},
      {"abandoned", "sessions opened and left, some before the answer", 0.3, Abandoned},
  };
}

}  // namespace engram::test
