#include "tests/hostile/attack.h"

#include <algorithm>

#include "engram/rpc/rpc_client.h"
#include "engram/table/table_proto.h"
#include "proto/directory.pb.h"

namespace engram::test {
namespace {
constexpr std::chrono::seconds kPatience{20};
constexpr size_t kViolationsShown = 20;
}  // namespace

const ChannelSecurity& Victim::holder(const std::string& name) const {
  static const ChannelSecurity kNobody;
  const auto found = holders.find(name);
  return found == holders.end() ? kNobody : found->second;
}

Result<std::string> Victim::Token(const std::string& name,
                                  std::chrono::milliseconds* lifetime) const {
  if (!tls()) return std::string();
  proto::GetTokensRequest request;
  request.set_version(target.version.value());
  request.add_addresses(node);
  ENGRAM_ASSIGN_OR_RETURN(const std::string body,
                          RpcCallOnce({coordinator}, "directory.GetTokens",
                                      request.SerializeAsString(), kPatience, holder(name)));
  proto::GetTokensReply reply;
  if (!reply.ParseFromString(body) || reply.tokens_size() != 1) {
    return Error(StatusCode::kMalformed, "the coordinator gave no token");
  }
  if (lifetime != nullptr) *lifetime = std::chrono::milliseconds(reply.lifetime_ms());
  return reply.tokens(0);
}

Status Describe(const ChannelSecurity& security, Victim* victim) {
  auto body = RpcCallOnce({victim->coordinator}, "directory.GetShardMap",
                          proto::GetShardMapRequest().SerializeAsString(), kPatience, security);
  if (!body.has_value()) return body.error();
  proto::GetShardMapReply reply;
  if (!reply.ParseFromString(*body)) return {StatusCode::kMalformed, "not a GetShardMapReply"};
  auto spec = TableSpecFromProto(reply.spec());
  if (!spec.has_value()) return spec.error();
  auto layout = TableLayout::Create(*spec);
  if (!layout.has_value()) return layout.error();
  NodeTarget& target = victim->target;
  target.address = victim->node;
  target.version = TableVersion(reply.map().version());
  const auto* const identity = reinterpret_cast<const std::byte*>(reply.model_identity().data());
  if (reply.model_identity().size() != target.identity.size()) {
    return {StatusCode::kMalformed, "no model identity"};
  }
  std::transform(identity, identity + target.identity.size(), target.identity.begin(),
                 [](std::byte b) { return static_cast<ModelIdentity::value_type>(b); });
  target.row_stride = layout->row_stride();
  target.slot_shift = layout->slot_shift();
  target.slot_count = layout->slot_count();
  victim->row_space = uint64_t{layout->slot_count()} << layout->slot_shift();
  for (uint32_t slot = 0; slot < layout->slot_count(); slot += 97) {
    victim->rows.push_back(uint64_t{slot} << layout->slot_shift());
  }
  return {};
}

void Tally::Violation(const std::string& what) {
  ++given;
  if (violations.size() < kViolationsShown) violations.push_back(what);
}

std::string Dice::Bytes(size_t count) {
  std::string bytes(count, '\0');
  for (size_t i = 0; i < count; i += 8) {
    uint64_t number = Number();
    for (size_t j = i; j < std::min(count, i + 8); ++j, number >>= 8) {
      bytes[j] = static_cast<char>(number & 0xff);
    }
  }
  return bytes;
}

std::string Dice::Damaged(std::string text) {
  if (text.empty() || OneIn(8)) text += Bytes(1 + Below(64));
  if (OneIn(4)) text.resize(Below(text.size() + 1));
  for (uint64_t flips = Below(4); flips > 0 && !text.empty(); --flips) {
    char& byte = text[Below(text.size())];
    byte = static_cast<char>(OneIn(3) ? 0xff : byte ^ (1 << Below(8)));
  }
  return text;
}

uint64_t Dice::Edge() {
  switch (Below(5)) {
    case 0:
      return Below(3);
    case 1:
      return ~uint64_t{0} - Below(3);
    case 2:
      return (uint64_t{1} << Below(64)) - 1;
    case 3:
      return (uint64_t{1} << Below(64)) + Below(2);
    default:
      return Number();
  }
}

}  // namespace engram::test
