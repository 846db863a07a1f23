// Calls that are well-formed, by those who may not make them or with what does not fit.
#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include "engram/rpc/frame.h"
#include "engram/security/session_token.h"
#include "proto/admin.pb.h"
#include "proto/directory.pb.h"
#include "proto/node.pb.h"
#include "proto/session.pb.h"
#include "tests/hostile/attack.h"
#include "tests/hostile/wire.h"
#include "tests/support/rude_peer.h"

namespace engram::test {
namespace {

constexpr std::array kMethods = {"admin.CreateVersion",
                                 "admin.GetStatus",
                                 "admin.DrainNode",
                                 "admin.RemoveNode",
                                 "admin.SwitchVersion",
                                 "admin.DropVersion",
                                 "admin.GetPlan",
                                 "admin.GetEvents",
                                 "node.Register",
                                 "node.Heartbeat",
                                 "directory.GetShardMap",
                                 "directory.GetTokens",
                                 "directory.ReportSlot",
                                 "session.Open",
                                 "session.Renew",
                                 "session.GetDirectory",
                                 "session.",
                                 "admin",
                                 "node.",
                                 "coordinator.Lead"};

Wire::Options As(const Victim& victim, const std::string& holder) {
  Wire::Options options;
  options.tls = victim.tls();
  options.identity = victim.holder(holder).identity;
  return options;
}

std::string CodeName(const proto::Frame& frame) {
  return std::string(StatusCodeName(StatusCodeFromProto(frame.code())));
}

// Takes the answers to `calls` calls; false: the connection has ended.
template <typename Judge>
bool TakeAnswers(Wire& wire, uint64_t calls, Tally& tally, const Judge& judge) {
  for (; calls > 0; --calls) {
    const auto frame = wire.ReceiveFrame();
    if (!frame.has_value()) {
      tally.Answer("connection closed");
      return false;
    }
    tally.Answer(CodeName(*frame));
    judge(*frame);
  }
  return true;
}

// A request that would be good, for some method.
std::string GoodBody(const Victim& victim, Dice& dice) {
  switch (dice.Below(7)) {
    case 0:
      return OpenRequest(victim.target, dice.Bytes(100), dice.Bytes(120)).SerializeAsString();
    case 1: {
      proto::GetShardMapRequest request;
      request.set_version(dice.Edge());
      request.set_known_epoch(dice.Edge());
      return request.SerializeAsString();
    }
    case 2: {
      proto::GetTokensRequest request;
      request.set_version(dice.Edge());
      for (uint64_t i = dice.Below(100); i > 0; --i) request.add_addresses(dice.Bytes(20));
      return request.SerializeAsString();
    }
    case 3: {
      proto::HeartbeatRequest request;
      request.set_id("m0");
      request.set_incarnation(dice.Edge());
      auto& held = *request.add_held();
      held.set_version(victim.target.version.value());
      for (uint64_t i = dice.Below(50); i > 0; --i) {
        held.add_ready_slots(static_cast<uint32_t>(dice.Edge()));
        held.add_ready_digests(dice.Edge());
      }
      return request.SerializeAsString();
    }
    case 4: {
      proto::RenewSessionRequest request;
      request.set_session(dice.Edge());
      request.set_token(dice.Bytes(dice.Below(200)));
      return request.SerializeAsString();
    }
    case 5: {  // of what is there, but for the node or its process
      proto::ReportSlotRequest request;
      request.set_version(dice.OneIn(4) ? dice.Edge() : victim.target.version.value());
      request.set_slot(static_cast<uint32_t>(dice.Below(victim.target.slot_count)));
      request.set_node_id(dice.OneIn(2) ? "m0" : "m" + std::to_string(dice.Below(9) + 1));
      request.set_incarnation(dice.Edge());
      return request.SerializeAsString();
    }
    default:
      return {};
  }
}

// Valid frames, any method, bodies that are damaged; call ids again, out of order, 0.
void RandomCalls(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const std::array addresses = {victim.coordinator, victim.node};
  constexpr std::array kHolders = {"reader", "impostor", "coordinator"};
  while (order.Goes(tally)) {
    const uint64_t at = dice.Below(addresses.size());
    const std::string holder = kHolders[dice.Below(kHolders.size())];
    const auto wire = Wire::Connect(addresses[at], As(victim, holder));
    if (wire == nullptr) {
      ++tally.messages;
      tally.Answer("not let in");
      continue;
    }
    bool open = true;
    for (int round = 0; open && round < 20 && order.Goes(tally); ++round) {
      std::string bytes;
      const uint64_t calls = 1 + dice.Below(64);
      for (uint64_t i = 0; i < calls; ++i) {
        proto::Frame frame;
        frame.set_call_id(dice.OneIn(2) ? 1 + dice.Below(3) : std::max<uint64_t>(1, dice.Edge()));
        std::string method = kMethods[dice.Below(kMethods.size())];
        // Nobody is refused there, so these would be answered, with right.
        const bool changes = method.starts_with("admin.") || method.starts_with("node.");
        if (changes && !victim.tls()) method = "session.Open";
        // A map that does not change is waited for.
        if (method == "directory.GetShardMap") method = "directory.GetTokens";
        frame.set_method(dice.OneIn(20) ? dice.Bytes(1 + dice.Below(60)) : method);
        frame.set_body(dice.OneIn(4) ? dice.Bytes(dice.Below(300))
                                     : dice.Damaged(GoodBody(victim, dice)));
        const std::string one = frame.SerializeAsString();
        bytes += FrameBytes(static_cast<uint32_t>(one.size()), one);
      }
      tally.messages += calls;
      open = wire->Send(bytes) && TakeAnswers(*wire, calls, tally, [&](const proto::Frame& frame) {
               // A token of its own for a version that may be, and an empty list of them, are its
               // right.
               proto::GetTokensReply tokens;
               if (frame.code() != proto::OK || frame.body().empty()) return;
               // Where nobody is asked who they are, anybody may open a session, and a damaged
               // worker address is looked at with its first message only.
               if (at == 1 && victim.tls())
                 tally.Violation("a node answered a random call of " + holder + " with OK");
               if (at == 0 && holder == "coordinator" && victim.tls()) {
                 tally.Violation("a coordinator's certificate was answered");
               }
             });
    }
  }
}

// Every role calls what only others may, with requests that would do something.
void WrongRoles(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  if (!victim.tls()) return;
  proto::DrainNodeRequest drain;
  drain.set_node_id("m0");
  proto::RegisterNodeRequest enrol;
  enrol.mutable_node()->set_id("m0");
  enrol.mutable_node()->set_incarnation(77);
  enrol.mutable_node()->set_data_address("127.0.0.1:1");
  enrol.mutable_node()->set_capacity_bytes(1u << 30);
  proto::HeartbeatRequest beat;
  beat.set_id("m0");
  beat.set_incarnation(77);
  proto::GetTokensRequest tokens;
  tokens.set_version(victim.target.version.value());
  tokens.add_addresses(victim.node);
  struct Try {
    const char* holder;
    const char* method;
    std::string body;
    bool at_node = false;
  };
  const std::string drained = drain.SerializeAsString();
  const std::string enrolled = enrol.SerializeAsString();
  const std::string beats = beat.SerializeAsString();
  const std::string wanted = tokens.SerializeAsString();
  const std::string opened = OpenRequest(victim.target, "x", "").SerializeAsString();
  const std::vector<Try> tries = {{"reader", "admin.DrainNode", drained},
                                  {"impostor", "admin.DrainNode", drained},
                                  {"coordinator", "admin.DrainNode", drained},
                                  {"reader", "admin.GetStatus", ""},
                                  {"reader", "admin.SwitchVersion", ""},
                                  {"reader", "node.Register", enrolled},
                                  {"operator", "node.Register", enrolled},
                                  {"impostor", "node.Register", enrolled},
                                  {"coordinator", "node.Register", enrolled},
                                  {"reader", "node.Heartbeat", beats},
                                  {"operator", "node.Heartbeat", beats},
                                  {"impostor", "node.Heartbeat", beats},
                                  {"coordinator", "directory.GetTokens", wanted},
                                  {"coordinator", "session.Open", opened, true},
                                  {"operator", "session.Open", opened, true},
                                  {"reader", "session.Open", opened, true},
                                  {"operator", "secret.Method", ""}};
  std::map<std::pair<std::string, bool>, std::unique_ptr<Wire>> wires;
  while (order.Goes(tally)) {
    const Try& one = tries[dice.Below(tries.size())];
    auto& wire = wires[{one.holder, one.at_node}];
    if (wire == nullptr) {
      wire = Wire::Connect(one.at_node ? victim.node : victim.coordinator, As(victim, one.holder));
    }
    proto::Frame frame;
    frame.set_call_id(1 + dice.Below(1000));
    frame.set_method(one.method);
    frame.set_body(one.body);
    ++tally.messages;
    const bool answered =
        wire != nullptr && wire->SendFrame(frame) &&
        TakeAnswers(*wire, 1, tally, [&](const proto::Frame& reply) {
          if (reply.code() == proto::PERMISSION_DENIED) return;
          tally.Violation(std::string(one.method) + " of " + one.holder + ": " + CodeName(reply));
        });
    if (!answered) wire.reset();
  }
}

// Tokens that are forged, another's, for elsewhere, over, or shown again.
void BadTokens(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  if (!victim.tls()) return;
  const auto own = victim.Token("reader");
  const auto others = victim.Token("other");
  if (!own.has_value() || !others.has_value()) {
    return tally.Violation("the coordinator gives a reader no token");
  }
  Victim elsewhere = victim;
  elsewhere.node = "127.0.0.1:1";
  const std::string another_node = elsewhere.Token("reader").value_or("");
  TokenKeys forger;
  forger.Add(TokenKey::Make(UnixNow() + UnixSeconds(10000)).value(), UnixNow());
  std::unique_ptr<Wire> wire;
  while (order.Goes(tally)) {
    if (wire == nullptr) wire = Wire::Connect(victim.node, As(victim, "reader"));
    NodeTarget target = victim.target;
    std::string token;
    switch (dice.Below(6)) {
      case 0: {
        token = *own;
        token[dice.Below(token.size())] ^= static_cast<char>(1 << dice.Below(8));
        break;
      }
      case 1:
        token = *others;
        break;
      case 2:
        token = another_node;
        break;
      case 3:  // for the version that it names, not the one that is asked for
        token = *own;
        target.version = TableVersion(target.version.value() + 1 + dice.Below(5));
        break;
      case 4:
        token = forger
                    .Sign({"reader", target.version, victim.node, UnixNow() + UnixSeconds(100)},
                          UnixNow())
                    .value();
        break;
      default:
        token = own->substr(0, dice.Below(own->size()));
        break;
    }
    proto::Frame frame;
    frame.set_call_id(1 + dice.Below(1000));
    frame.set_method("session.Open");
    frame.set_body(OpenRequest(target, dice.Bytes(50), token).SerializeAsString());
    if (dice.OneIn(4)) {
      proto::RenewSessionRequest renewal;
      renewal.set_session(dice.Number());
      renewal.set_token(*own);
      frame.set_method("session.Renew");
      frame.set_body(renewal.SerializeAsString());
    }
    ++tally.messages;
    const bool answered =
        wire != nullptr && wire->SendFrame(frame) &&
        TakeAnswers(*wire, 1, tally, [&](const proto::Frame& reply) {
          const bool renewed = frame.method() == "session.Renew";
          const bool refused = renewed ? reply.code() == proto::NOT_FOUND
                                       : reply.code() == proto::PERMISSION_DENIED ||
                                             reply.code() == proto::UNAVAILABLE;
          if (!refused) tally.Violation(frame.method() + " with a bad token: " + CodeName(reply));
        });
    if (!answered) wire.reset();
  }
}

// A good token, shown by those who are not its holder, and by its holder after its end.
void OldTokens(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  if (!victim.tls()) return;
  auto lifetime = std::chrono::milliseconds(0);
  const auto token = victim.Token("reader", &lifetime);
  if (!token.has_value()) return tally.Violation("the coordinator gives a reader no token");
  // Clocks may differ by 5 s.
  const auto over = std::chrono::steady_clock::now() + lifetime + std::chrono::seconds(7);
  const auto show = [&](const char* holder) -> std::string {
    const auto wire = Wire::Connect(victim.node, As(victim, holder));
    ++tally.messages;
    if (wire == nullptr) return "not let in";
    proto::Frame frame;
    frame.set_call_id(1 + dice.Below(1000));
    frame.set_method("session.Open");
    // No worker's address: a good token is refused for that.
    frame.set_body(OpenRequest(victim.target, "x", *token).SerializeAsString());
    const auto reply = wire->SendFrame(frame) ? wire->ReceiveFrame() : std::nullopt;
    const std::string answer = reply.has_value() ? CodeName(*reply) : "connection closed";
    tally.Answer(answer);
    return answer;
  };
  const std::string denied(StatusCodeName(StatusCode::kPermissionDenied));
  if (show("reader") == denied) return tally.Violation("a good token is refused to its holder");
  constexpr std::array kOthers = {"other", "impostor", "operator", "coordinator", "foreign"};
  for (size_t i = 0; i < 50; ++i) {
    const char* const holder = kOthers[i % kOthers.size()];
    const std::string answer = show(holder);
    if (answer == denied || answer == "not let in" || answer == "connection closed") continue;
    tally.Violation(std::string("a reader's token shown by ") + holder + ": " + answer);
  }
  if (over > order.until) return tally.Answer("lives longer than this attack");
  std::this_thread::sleep_until(over);
  for (int i = 0; i < 50; ++i) {
    const std::string answer = show("reader");
    // Or its key is over too.
    const bool refused = answer == denied || answer == StatusCodeName(StatusCode::kUnavailable);
    if (!refused) tally.Violation("a token that is over: " + answer);
  }
}

// The keys of regions, and longer life, for sessions that another connection opened.
void OthersSessions(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  auto peer = RudePeer::Create(victim.target, {.security = victim.holder("reader"),
                                               .token = victim.Token("reader").value_or("")});
  if (!peer.has_value()) return tally.Violation("no session: " + peer.error().ToString());
  const auto wire = Wire::Connect(victim.node, As(victim, "other"));
  if (wire == nullptr) return tally.Violation("another reader is not let in");
  const std::string token = victim.Token("other").value_or("");
  while (order.Goes(tally)) {
    std::string bytes;
    constexpr uint64_t kCalls = 50;
    for (uint64_t i = 0; i < kCalls; ++i) {
      proto::Frame frame;
      frame.set_call_id(i + 1);
      const uint64_t session = dice.OneIn(2) ? (*peer)->reply().session() : dice.Edge();
      if (dice.OneIn(2)) {
        proto::GetDirectoryRequest request;
        request.set_session(session);
        frame.set_method("session.GetDirectory");
        frame.set_body(request.SerializeAsString());
      } else {
        proto::RenewSessionRequest request;
        request.set_session(session);
        request.set_token(token);
        frame.set_method("session.Renew");
        frame.set_body(request.SerializeAsString());
      }
      const std::string one = frame.SerializeAsString();
      bytes += FrameBytes(static_cast<uint32_t>(one.size()), one);
    }
    tally.messages += kCalls;
    const bool answered =
        wire->Send(bytes) && TakeAnswers(*wire, kCalls, tally, [&](const proto::Frame& reply) {
          if (reply.code() == proto::NOT_FOUND) return;
          tally.Violation("another's session: " + CodeName(reply));
        });
    if (!answered) return tally.Violation("the connection ended");
  }
}

// Calls by the thousand, no answer taken: the server must not keep them all.
void UnreadAnswers(const Victim& victim, const Order& order, Dice& dice, Tally& tally) {
  const std::array addresses = {victim.coordinator, victim.node};
  while (order.Goes(tally)) {
    Wire::Options options = As(victim, "reader");
    options.receive_buffer_bytes = 4096;
    options.patience = std::chrono::milliseconds(500);
    const auto wire = Wire::Connect(addresses[dice.Below(2)], options);
    if (wire == nullptr) {
      ++tally.messages;
      continue;
    }
    std::string bytes;
    for (uint64_t i = 1; i <= 500; ++i) {
      proto::Frame frame;
      frame.set_call_id(i);
      frame.set_method("session.Nothing" + std::string(200, 'x'));
      const std::string one = frame.SerializeAsString();
      bytes += FrameBytes(static_cast<uint32_t>(one.size()), one);
    }
    for (int i = 0; i < 20 && wire->Send(bytes); ++i) tally.messages += 500;
    tally.Answer("left unread");
  }
}

}  // namespace

std::vector<Attack> CallAttacks() {
  return {
      {"random-calls", "valid frames with damaged bodies, call ids again and out of order", 25,
       RandomCalls},
      {"wrong-roles", "every role calls what only others may", 3, WrongRoles},
      {"bad-tokens", "tokens forged, another's, for another node or version, cut off", 3,
       BadTokens},
      {"old-tokens", "a good token shown by others, and after its end if that is soon", 0,
       OldTokens},
      {"others-sessions", "region keys and renewals for sessions of others", 5, OthersSessions},
      {"unread-answers", "calls whose answers are never read", 5, UnreadAnswers},
  };
}

}  // namespace engram::test
