#include "client/directory_state.h"

#include <utility>

#include "engram/table/table_proto.h"

namespace engram {

proto::GetShardMapRequest DirectoryState::NextRequest() const {
  proto::GetShardMapRequest request;
  request.set_version(version_.value());
  // Until it is ready every reply is wanted whole: readiness may come without a newer map.
  request.set_known_epoch(ready_ && map_ != nullptr ? map_->epoch.value() : 0);
  request.set_known_current(current_version_.value());
  if (identity_wanted_.has_value()) {
    request.set_model_identity(ModelIdentityToBytes(*identity_wanted_));
  }
  return request;
}

Result<bool> DirectoryState::Take(const proto::GetShardMapReply& reply) {
  if (!reply.has_map()) {
    if (map_ != nullptr) {
      ready_ = reply.ready();
      current_version_ = TableVersion(reply.current_version());
    }
    return false;
  }
  Model model{layout_, identity_};
  if (layout_ == nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(model, ModelOf(reply));
  }
  auto map = ShardMapFromProto(reply.map(), model.layout->slot_count());
  if (!map.has_value()) return Error(std::move(map).error());
  if (map_ != nullptr && map->version != version_) {
    return Error(StatusCode::kWrongVersion, "asked for table version " +
                                                std::to_string(version_.value()) + ", got " +
                                                std::to_string(map->version.value()));
  }
  if (layout_ == nullptr) {  // once: other threads read both from then on
    layout_ = std::move(model.layout);
    identity_ = model.identity;
  }
  ready_ = reply.ready();
  current_version_ = TableVersion(reply.current_version());
  if (map_ != nullptr && map->epoch <= map_->epoch) return false;
  if (map_ == nullptr) version_ = map->version;
  map_ = std::make_shared<const ShardMap>(*std::move(map));
  return true;
}

Result<DirectoryState::Model> DirectoryState::ModelOf(const proto::GetShardMapReply& reply) const {
  ENGRAM_ASSIGN_OR_RETURN(const TableSpec spec, TableSpecFromProto(reply.spec()));
  ENGRAM_ASSIGN_OR_RETURN(const ModelIdentity identity,
                          ModelIdentityFromBytes(reply.model_identity()));
  if (identity_wanted_.has_value() && identity != *identity_wanted_) {
    return Error(StatusCode::kWrongModel, "its tables have the model identity " +
                                              ModelIdentityHex(identity) + ", this model has " +
                                              ModelIdentityHex(*identity_wanted_) +
                                              ": config.json, tokenizer.json or the row format "
                                              "differ");
  }
  ENGRAM_ASSIGN_OR_RETURN(TableLayout layout, TableLayout::Create(spec));
  return Model{std::make_shared<const TableLayout>(std::move(layout)), identity};
}

}  // namespace engram
