#include "engram/table/table_proto.h"

#include <algorithm>
#include <utility>

namespace engram {
namespace {

// Bounds a repeated field before it is copied.
Status CheckCount(std::string_view field, int found, uint64_t max) {
  if (static_cast<uint64_t>(found) <= max) return Status();
  return Status(StatusCode::kMalformed, std::string(field) + " has " + std::to_string(found) +
                                            " entries, at most " + std::to_string(max) +
                                            " are allowed");
}

}  // namespace

proto::HashSpec HashSpecToProto(const HashSpec& spec) {
  proto::HashSpec message;
  message.set_variant(static_cast<uint32_t>(spec.variant));
  message.set_max_ngram_size(spec.max_ngram_size);
  message.set_head_count(spec.head_count);
  message.mutable_base_sizes()->Add(spec.base_sizes.begin(), spec.base_sizes.end());
  message.mutable_layer_ids()->Add(spec.layer_ids.begin(), spec.layer_ids.end());
  message.set_compressed_vocab_size(spec.compressed_vocab_size);
  message.set_pad_id(spec.pad_id);
  message.set_seed(spec.seed);
  return message;
}

Result<HashSpec> HashSpecFromProto(const proto::HashSpec& message) {
  ENGRAM_TRY(CheckCount("HashSpec.base_sizes", message.base_sizes_size(), kNgramSizeMax));
  ENGRAM_TRY(CheckCount("HashSpec.layer_ids", message.layer_ids_size(), kEngramLayersMax));
  if (message.variant() != static_cast<uint32_t>(Variant::kDemo) &&
      message.variant() != static_cast<uint32_t>(Variant::kV41)) {
    return Error(StatusCode::kMalformed, "HashSpec.variant = " + std::to_string(message.variant()) +
                                             ", expected 1 (demo) or 2 (v41)");
  }
  HashSpec spec;
  spec.variant = static_cast<Variant>(message.variant());
  spec.max_ngram_size = message.max_ngram_size();
  spec.head_count = message.head_count();
  spec.base_sizes.assign(message.base_sizes().begin(), message.base_sizes().end());
  spec.layer_ids.assign(message.layer_ids().begin(), message.layer_ids().end());
  spec.compressed_vocab_size = message.compressed_vocab_size();
  spec.pad_id = message.pad_id();
  spec.seed = message.seed();
  if (Status status = ValidateHashSpec(spec); !status.ok()) {
    return Error(StatusCode::kMalformed, "HashSpec: " + status.message());
  }
  return spec;
}

proto::TableSpec TableSpecToProto(const TableSpec& spec) {
  proto::TableSpec message;
  *message.mutable_hash() = HashSpecToProto(spec.hash);
  message.set_row_format(static_cast<uint32_t>(spec.row_format));
  message.set_row_values(spec.row_values);
  return message;
}

Result<TableSpec> TableSpecFromProto(const proto::TableSpec& message) {
  TableSpec spec;
  ENGRAM_ASSIGN_OR_RETURN(spec.hash, HashSpecFromProto(message.hash()));
  // Before the cast: the enum is one byte wide.
  if (message.row_format() < 1 || message.row_format() > 4) {
    return Error(
        StatusCode::kMalformed,
        "TableSpec.row_format = " + std::to_string(message.row_format()) + ", expected 1..4");
  }
  spec.row_format = static_cast<RowFormat>(message.row_format());
  spec.row_values = message.row_values();
  if (Status status = ValidateTableSpec(spec); !status.ok()) {
    return Error(StatusCode::kMalformed, "TableSpec: " + status.message());
  }
  return spec;
}

proto::ShardMap ShardMapToProto(const ShardMap& map) {
  proto::ShardMap message;
  message.set_version(map.version.value());
  message.set_epoch(map.epoch.value());
  message.set_replica_count(map.replica_count);
  for (const ShardMapNode& node : map.nodes) {
    proto::ShardMapNode* out = message.add_nodes();
    out->set_id(node.id);
    out->set_zone(node.zone);
    out->set_address(node.address);
    out->set_incarnation(node.incarnation.value());
  }
  message.mutable_owners()->Reserve(static_cast<int>(map.owners.size()));
  for (const NodeIndex owner : map.owners) message.add_owners(owner.value());
  return message;
}

Result<ShardMap> ShardMapFromProto(const proto::ShardMap& message, uint32_t slot_count) {
  ENGRAM_TRY(CheckCount("ShardMap.nodes", message.nodes_size(), kNodesMax));
  ENGRAM_TRY(
      CheckCount("ShardMap.owners", message.owners_size(), uint64_t{slot_count} * kReplicasMax));
  ShardMap map;
  map.version = TableVersion(message.version());
  map.epoch = Epoch(message.epoch());
  map.replica_count = message.replica_count();
  map.nodes.reserve(static_cast<size_t>(message.nodes_size()));
  for (const proto::ShardMapNode& node : message.nodes()) {
    map.nodes.push_back({node.id(), node.zone(), node.address(), Incarnation(node.incarnation())});
  }
  map.owners.reserve(static_cast<size_t>(message.owners_size()));
  for (const uint32_t owner : message.owners()) map.owners.emplace_back(owner);
  ENGRAM_TRY(map.Validate(slot_count));
  return map;
}

std::string ModelIdentityToBytes(const ModelIdentity& identity) {
  return std::string(identity.begin(), identity.end());
}

Result<ModelIdentity> ModelIdentityFromBytes(std::string_view bytes) {
  ModelIdentity identity{};
  if (bytes.size() != identity.size()) {
    return Error(StatusCode::kMalformed,
                 "a model identity of " + std::to_string(bytes.size()) + " bytes, expected 32");
  }
  std::copy(bytes.begin(), bytes.end(), identity.begin());
  return identity;
}

}  // namespace engram
