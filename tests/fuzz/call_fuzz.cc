// Calls of somebody whose certificate is good: a call is passed on only where the table of
// docs/SECURITY.md says so, whatever the frame is.
#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include <google/protobuf/stubs/logging.h>

#include "engram/base/check.h"
#include "engram/rpc/frame.h"
#include "engram/security/permissions.h"

using namespace engram;

namespace {

constexpr uint32_t kFrameBytesMax = 4096;
constexpr const char* kMethods[] = {"node.Register",
                                    "node.Heartbeat",
                                    "directory.GetShardMap",
                                    "directory.GetTokens",
                                    "session.Open",
                                    "session.GetDirectory",
                                    "session.Renew",
                                    "directory.ReportSlot",
                                    "admin.GetStatus",
                                    "admin.DrainNode",
                                    "admin.CreateVersion",
                                    "admin.DropVersion",
                                    "admin",
                                    "node",
                                    "",
                                    "secret."};

// The table once more, written otherwise.
bool MayCall(Role role, const std::string& method) {
  const size_t dot = method.find('.');
  if (dot == std::string::npos) return false;
  const std::string group = method.substr(0, dot);
  switch (role) {
    case Role::kReader:
      return group == "directory" || group == "session";
    case Role::kNode:
      return group == "node" || group == "directory" || group == "session";
    case Role::kOperator:
      return group == "admin" || group == "directory" || group == "session";
    default:
      return false;
  }
}

void Call(const PeerIdentity& peer, const proto::Frame& frame) {
  if (!CheckRequest(frame).ok()) return;  // the connection ends
  const Status allowed = CheckCall(peer, frame.method());
  ENGRAM_CHECK(allowed.ok() == MayCall(peer.role, frame.method()));
  if (IsChange(frame.method()) && allowed.ok()) {
    ENGRAM_CHECK(peer.role == Role::kOperator || peer.role == Role::kNode);
  }
  if (allowed.ok()) return;
  ENGRAM_CHECK(allowed.code() == StatusCode::kPermissionDenied);
  // The refusal names what came from outside, and can be sent.
  proto::Frame refusal;
  refusal.set_call_id(frame.call_id());
  refusal.set_code(StatusCodeToProto(allowed.code()));
  refusal.set_message(ErrorMessageText(allowed.message()));
  ENGRAM_CHECK(CheckReply(refusal).ok());
  proto::Frame received;
  ENGRAM_CHECK(received.ParseFromString(refusal.SerializeAsString()));
}

}  // namespace

// Of texts that are no UTF-8, as in a server: the fuzzer would be slow.
extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  (void)google::protobuf::SetLogHandler(nullptr);
  return 0;
}

// Role, then a method of the list and how many of the next bytes follow it; then any stream.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const PeerIdentity peer{static_cast<Role>(data[0] % kRoleCount), "somebody"};
  const std::string_view rest(reinterpret_cast<const char*>(data) + 3, size - 3);
  const size_t more = std::min<size_t>(data[2], rest.size());
  proto::Frame frame;
  frame.set_call_id(1);
  frame.set_method(kMethods[data[1] % std::size(kMethods)] + std::string(rest.substr(0, more)));
  std::string stream;
  (void)AppendFrame(frame, kFrameBytesMax, &stream);
  stream += rest.substr(more);
  FrameDecoder decoder(kFrameBytesMax);
  for (size_t at = 0; at < stream.size();) {
    const auto room = decoder.Prepare();
    const size_t piece = std::min(room.size(), stream.size() - at);
    std::memcpy(room.data(), stream.data() + at, piece);
    decoder.Commit(piece);
    at += piece;
    while (true) {
      const auto next = decoder.Next();
      if (!next.has_value()) return 0;
      if (!next->has_value()) break;
      Call(peer, **next);
    }
  }
  return 0;
}
