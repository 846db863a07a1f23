// TableSpec, HashSpec, ShardMap and ModelIdentity <-> their Protobuf messages. Messages come from
// peers: every From function refuses what is out of bounds before it allocates for it.
// Thread-safe. CMake target engram::table_proto.
#pragma once

#include <string>
#include <string_view>

#include "engram/base/status.h"
#include "engram/table/shard_map.h"
#include "engram/table/table_layout.h"
#include "proto/common.pb.h"
#include "proto/directory.pb.h"

namespace engram {

[[nodiscard]] proto::HashSpec HashSpecToProto(const HashSpec& spec);
// ERRORS: kMalformed naming the field; what comes back passes ValidateHashSpec.
[[nodiscard]] Result<HashSpec> HashSpecFromProto(const proto::HashSpec& message);

[[nodiscard]] proto::TableSpec TableSpecToProto(const TableSpec& spec);
// ERRORS: kMalformed naming the field; what comes back passes ValidateTableSpec.
[[nodiscard]] Result<TableSpec> TableSpecFromProto(const proto::TableSpec& message);

[[nodiscard]] proto::ShardMap ShardMapToProto(const ShardMap& map);
// `slot_count` is the layout's. ERRORS: kMalformed naming what is out of range; what comes back
// passes ShardMap::Validate(slot_count).
[[nodiscard]] Result<ShardMap> ShardMapFromProto(const proto::ShardMap& message,
                                                 uint32_t slot_count);

[[nodiscard]] std::string ModelIdentityToBytes(const ModelIdentity& identity);
// ERRORS: kMalformed unless it is 32 bytes.
[[nodiscard]] Result<ModelIdentity> ModelIdentityFromBytes(std::string_view bytes);

}  // namespace engram
