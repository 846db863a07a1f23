// Shard maps: who asks what, and what it costs to let thousands wait for the next one.
#include <algorithm>
#include <utility>

#include "coordinator/coordinator_service.h"
#include "engram/rpc/parse_message.h"
#include "engram/table/table_proto.h"

namespace engram {

using boost::asio::awaitable;
using std::chrono::milliseconds;

// All that is kept of a call that waits.
struct CoordinatorService::MapQuestion {
  TableVersion version;  // 0 = the current one
  uint64_t known_epoch = 0;
  TableVersion known_current;
  std::optional<ModelIdentity> identity;
  MonotonicTime until;
};

Result<CoordinatorService::MapQuestion> CoordinatorService::ReadMapQuestion(
    std::string body) const {
  ENGRAM_ASSIGN_OR_RETURN(const auto request, ParseMessage<proto::GetShardMapRequest>(body));
  MapQuestion question;
  question.version = TableVersion(request.version());
  question.known_epoch = request.known_epoch();
  question.known_current = TableVersion(request.known_current());
  if (!request.model_identity().empty()) {
    ENGRAM_ASSIGN_OR_RETURN(question.identity, ModelIdentityFromBytes(request.model_identity()));
  }
  question.until =
      SteadyClock().Now() + milliseconds(std::min(request.wait_ms(), options_.wait_ms_max));
  return question;
}

Status CoordinatorService::CheckCanRead(uint64_t known_epoch) const {
  if (state_ == nullptr) {
    return Status(StatusCode::kUnavailable,
                  "this coordinator has not read the cluster's state yet: is its store reached?");
  }
  // Whoever has a map may find a newer one elsewhere.
  const Duration age = SteadyClock().Now() - store_->leadership().followed_at;
  if (term_ == 0 && known_epoch > 0 && age > options_.stale_after) {
    return Status(StatusCode::kUnavailable,
                  "this coordinator follows and has not reached its store for " +
                      std::to_string(std::chrono::duration_cast<milliseconds>(age).count()) +
                      " ms: another may know more");
  }
  return Status();
}

awaitable<Result<std::string>> CoordinatorService::GetShardMap(const RpcPeer& peer,
                                                               std::string body) {
  const auto question = ReadMapQuestion(std::move(body));
  if (!question.has_value()) co_return Error(question.error());
  std::unique_ptr<HeldCalls::Call> held;
  while (true) {
    auto answer = AnswerMap(*question);
    if (answer.has_value()) co_return *std::move(answer);
    if (Status status = held_->Hold(peer, HeldCalls::By::kReader, &held); !status.ok()) {
      co_return Error(std::move(status));
    }
    co_await held->Wait(question->until);
  }
}

std::optional<Result<std::string>> CoordinatorService::AnswerMap(const MapQuestion& question) {
  if (Status status = CheckCanRead(question.known_epoch); !status.ok()) return Error(status);
  const TableVersion version =
      question.version == TableVersion() ? state_->DefaultVersion() : question.version;
  const std::shared_ptr<const ShardMap> map = state_->Map(version);
  const bool late = IsOver(question.until);
  const bool other_current =
      question.known_current != TableVersion() && question.known_current != state_->current();
  proto::GetShardMapReply reply;
  reply.set_current_version(state_->current().value());
  if (map == nullptr) {
    // It was dropped before its reader heard what to read instead.
    if (term_ != 0 && other_current) return reply.SerializeAsString();
    if (question.version == TableVersion() && !late) return std::nullopt;
    // The leader may have one that is not seen here yet.
    return Error(term_ != 0 ? StatusCode::kNotFound : StatusCode::kUnavailable,
                 question.version != TableVersion()
                     ? "there is no table version " + std::to_string(version.value())
                     : "there is no table version yet: engramctl create-version makes one");
  }
  const ModelIdentity& identity = *state_->Identity(version);
  if (question.identity.has_value() && *question.identity != identity) {
    return Error(StatusCode::kWrongModel,
                 "version " + std::to_string(version.value()) + " has model identity " +
                     ModelIdentityHex(identity) +
                     ", the client has another: use the config.json and tokenizer.json that the "
                     "tables were made for");
  }
  reply.set_ready(term_ != 0 ? state_->Ready(version) : state_->WasReady(version));
  if (map->epoch.value() > question.known_epoch ||
      (question.version == TableVersion() && question.known_epoch == 0)) {
    // Protobuf messages one after the other are one message.
    return MapBytes(version, map) + reply.SerializeAsString();
  }
  if (late || other_current) return reply.SerializeAsString();
  return std::nullopt;
}

const std::string& CoordinatorService::MapBytes(TableVersion version,
                                                const std::shared_ptr<const ShardMap>& map) {
  KeptBytes& kept = map_bytes_[version];
  if (kept.map == map) return kept.bytes;
  std::erase_if(map_bytes_, [&](const auto& entry) {
    return entry.first != version && state_->Map(entry.first) == nullptr;
  });
  proto::GetShardMapReply reply;
  *reply.mutable_map() = ShardMapToProto(*map);
  *reply.mutable_spec() = TableSpecToProto(*state_->Spec(version));
  reply.set_model_identity(ModelIdentityToBytes(*state_->Identity(version)));
  kept = {map, reply.SerializeAsString()};
  return kept.bytes;
}

}  // namespace engram
