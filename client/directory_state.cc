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
  if (layout_ == nullptr) ENGRAM_TRY(TakeModel(reply));
  auto map = ShardMapFromProto(reply.map(), layout_->slot_count());
  if (!map.has_value()) return Error(std::move(map).error());
  if (map_ != nullptr && map->version != version_) {
    return Error(StatusCode::kWrongVersion, "asked for table version " +
                                                std::to_string(version_.value()) + ", got " +
                                                std::to_string(map->version.value()));
  }
  ready_ = reply.ready();
  current_version_ = TableVersion(reply.current_version());
  if (map_ != nullptr && map->epoch <= map_->epoch) return false;
  if (map_ == nullptr) version_ = map->version;
  map_ = std::make_shared<const ShardMap>(*std::move(map));
  return true;
}

// What the version is; once.
Status DirectoryState::TakeModel(const proto::GetShardMapReply& reply) {
  auto spec = TableSpecFromProto(reply.spec());
  if (!spec.has_value()) return spec.error();
  auto identity = ModelIdentityFromBytes(reply.model_identity());
  if (!identity.has_value()) return identity.error();
  if (identity_wanted_.has_value() && *identity != *identity_wanted_) {
    return {StatusCode::kWrongModel, "its tables have the model identity " +
                                         ModelIdentityHex(*identity) + ", this model has " +
                                         ModelIdentityHex(*identity_wanted_) +
                                         ": config.json, tokenizer.json or the row format differ"};
  }
  auto layout = TableLayout::Create(*spec);
  if (!layout.has_value()) return layout.error();
  identity_ = *identity;
  layout_ = std::make_shared<const TableLayout>(*std::move(layout));
  return {};
}

}  // namespace engram
