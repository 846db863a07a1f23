// Session tokens: the keys that nodes are told, and what readers get.
#include <algorithm>
#include <cstring>

#include <spdlog/spdlog.h>

#include "coordinator/coordinator_service.h"
#include "engram/rpc/parse_message.h"

namespace engram {
namespace {

constexpr int kTokensMax = 4096;  // of one call

}  // namespace

// A key is good for three lifetimes, and one is made every lifetime: it signs when the one before
// has less than a lifetime left, so when every node has long been told of it.
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

void CoordinatorService::TellTokenKeys(
    const google::protobuf::RepeatedField<uint64_t>& known,
    google::protobuf::RepeatedPtrField<proto::TokenKey>* told) const {
  for (const TokenKey& key : token_keys_.All()) {
    if (std::find(known.begin(), known.end(), key.id) != known.end()) continue;
    proto::TokenKey* const message = told->Add();
    message->set_id(key.id);
    message->set_secret(key.secret.data(), key.secret.size());
    message->set_good_until(key.good_until.count());
  }
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
  for (const std::string& address : request.addresses()) {
    ENGRAM_ASSIGN_OR_RETURN(std::string token,
                            token_keys_.Sign({peer->name, TableVersion(request.version()), address,
                                              now + options_.token_lifetime},
                                             now));
    reply.add_tokens(std::move(token));
  }
  reply.set_lifetime_ms(static_cast<uint64_t>(options_.token_lifetime.count()) * 1000);
  return reply.SerializeAsString();
}

}  // namespace engram
