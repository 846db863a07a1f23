// Session tokens: the keys that nodes are told, and what readers get.
#include <algorithm>
#include <cstring>
#include <utility>

#include <spdlog/spdlog.h>

#include "coordinator/coordinator_service.h"
#include "engram/rpc/parse_message.h"

namespace engram {
namespace {

constexpr int kTokensMax = 4096;  // of one call

}  // namespace

// A key is good for three lifetimes, and one is made every lifetime: it signs when the one before
// has less than a lifetime left, so when every node has long been told of it. Who has just begun to
// lead has told nobody of its keys, and says so with the tokens that it gives meanwhile.
void CoordinatorService::RotateTokenKeys() {
  const UnixSeconds lifetime = options_.token_lifetime;
  const UnixSeconds now = UnixNow();
  if (lifetime.count() == 0 || token_keys_good_until_ - now >= 2 * lifetime) return;
  const auto made = TokenKey::Make(now + 3 * lifetime);
  if (!made.has_value()) {
    spdlog::error("{}", made.error().ToString());
    return;
  }
  token_keys_good_until_ = made->good_until;
  token_keys_.Add(*made, now);
}

bool CoordinatorService::TellTokenKeys(const std::string& node,
                                       const google::protobuf::RepeatedField<uint64_t>& known,
                                       google::protobuf::RepeatedPtrField<proto::TokenKey>* told) {
  for (const TokenKey& key : token_keys_.All()) {
    if (std::find(known.begin(), known.end(), key.id) != known.end()) continue;
    proto::TokenKey* const message = told->Add();
    message->set_id(key.id);
    message->set_secret(key.secret.data(), key.secret.size());
    message->set_good_until(key.good_until.count());
  }
  // Once: a node that takes none of them (its clock is wrong) is not to ask without end.
  return std::exchange(token_keys_told_[node], token_keys_good_until_) < token_keys_good_until_ &&
         !told->empty();
}

std::set<std::string_view> CoordinatorService::UntoldAddresses(const ShardMap* map,
                                                               UnixSeconds key_good_until) const {
  std::set<std::string_view> untold;
  if (map == nullptr) return untold;
  for (const ShardMapNode& node : map->nodes) {
    if (node.incarnation == Incarnation()) continue;
    const auto told = token_keys_told_.find(node.id);
    if (told == token_keys_told_.end() || told->second < key_good_until) {
      untold.insert(node.address);
    }
  }
  return untold;
}

Result<std::string> CoordinatorService::GetTokens(const PeerIdentity* peer,
                                                  const std::string& body) {
  ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::GetTokensRequest>(body));
  if (request.addresses_size() > kTokensMax) {
    return Error(StatusCode::kInvalidArgument,
                 "tokens for more than " + std::to_string(kTokensMax) + " nodes in one call");
  }
  ENGRAM_TRY(CheckLeads());
  proto::GetTokensReply reply;
  if (peer == nullptr || options_.token_lifetime.count() == 0) return reply.SerializeAsString();
  const UnixSeconds now = UnixNow();
  const UnixSeconds lapses = now + options_.token_lifetime;
  const TableVersion version(request.version());
  const auto map = state_->Map(version);
  const auto untold = UntoldAddresses(map.get(), token_keys_.SignerGoodUntil(lapses));
  for (const std::string& address : request.addresses()) {
    if (untold.contains(address)) reply.add_untold(static_cast<uint32_t>(reply.tokens_size()));
    ENGRAM_ASSIGN_OR_RETURN(std::string token,
                            token_keys_.Sign({peer->name, version, address, lapses}, now));
    reply.add_tokens(std::move(token));
  }
  reply.set_lifetime_ms(static_cast<uint64_t>(options_.token_lifetime.count()) * 1000);
  return reply.SerializeAsString();
}

}  // namespace engram
