// What the coordinator takes from nodes and clients, in any order, and what it reads back from its
// store, damaged in any way.
#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coordinator/cluster_state.h"
#include "engram/base/check.h"
#include "engram/table/table_proto.h"

using namespace engram;

namespace {

constexpr size_t kEventsMax = 64;

// One layer of one small column: the records' own specs may not take longer than this.
VersionRequested SmallVersion(uint8_t choice) {
  VersionRequested event;
  event.spec.hash.max_ngram_size = 2;
  event.spec.hash.head_count = 1;
  event.spec.hash.base_sizes = {20 + 30 * (choice >> 6)};
  event.spec.hash.layer_ids = {1};
  event.spec.hash.compressed_vocab_size = 100;
  event.spec.row_values = 32;
  event.checkpoint_path = "m";
  event.replica_count = choice & 3;
  event.make_current = (choice & 4) != 0;
  event.expect_nodes = choice >> 3 & 3;
  return event;
}

// Bytes as a sequence of events: a kind, a length of one byte, then so many bytes of it.
class Events {
 public:
  Events(const uint8_t* data, size_t size) : bytes_(reinterpret_cast<const char*>(data), size) {}

  struct Piece {
    uint8_t kind;
    std::string_view bytes;
  };
  std::optional<Piece> Next() {
    if (bytes_.size() < 2) return std::nullopt;
    const auto kind = static_cast<uint8_t>(bytes_[0]);
    const size_t size = std::min<size_t>(static_cast<uint8_t>(bytes_[1]), bytes_.size() - 2);
    const Piece piece{kind, bytes_.substr(2, size)};
    bytes_.remove_prefix(2 + size);
    return piece;
  }

 private:
  std::string_view bytes_;
};

std::optional<ClusterEvent> Decode(const Events::Piece& piece) {
  const std::string bytes(piece.bytes);
  switch (piece.kind % 6) {
    case 0: {
      proto::RegisterNodeRequest message;
      if (!message.ParseFromString(bytes)) return std::nullopt;
      return NodeRegistered{message.node()};
    }
    case 1: {
      proto::HeartbeatRequest message;
      if (!message.ParseFromString(bytes)) return std::nullopt;
      return NodeHeartbeat{std::move(message)};
    }
    case 2:
      return SmallVersion(bytes.empty() ? 0 : static_cast<uint8_t>(bytes[0]));
    case 3: {
      proto::ReportSlotRequest message;
      if (!message.ParseFromString(bytes)) return std::nullopt;
      return SlotReported{TableVersion(message.version()), SlotIndex(message.slot()),
                          message.node_id(), Incarnation(message.incarnation())};
    }
    default:
      return TimePassed{};
  }
}

class Cluster {
 public:
  void Take(const Events::Piece& piece) {
    if (piece.kind % 6 == 5) return Restart();
    const auto event = Decode(piece);
    if (!event.has_value()) return;
    now_ += std::chrono::milliseconds(piece.kind * 16);
    const ClusterEffects effects = state_->Step(*event, now_);
    if (effects.created != TableVersion()) {
      ENGRAM_CHECK(effects.status.ok() && effects.created > newest_);
      newest_ = effects.created;
    }
    for (const MetadataRecord& record : effects.records) disk_[record.key] = *record.value;
    if (const auto* heartbeat = std::get_if<NodeHeartbeat>(&*event);
        heartbeat != nullptr && effects.status.ok()) {
      (void)state_->Changes(heartbeat->message);  // as the service answers it
    }
    Check();
  }
  // The store's records with some bytes replaced, as a damaged disk gives them.
  void RestoreDamaged(const Events::Piece& piece) {
    auto disk = disk_;
    if (!disk.empty() && !piece.bytes.empty()) {
      auto at = disk.begin();
      std::advance(at, static_cast<uint8_t>(piece.bytes[0]) % disk.size());
      std::string& value = at->second;
      for (size_t i = 2; i < piece.bytes.size() && !value.empty(); i += 2) {
        value[static_cast<uint8_t>(piece.bytes[i - 1]) % value.size()] ^= piece.bytes[i];
      }
    }
    std::vector<MetadataRecord> records;
    for (const auto& [key, value] : disk) records.push_back({key, value});
    RestoreAny(records, now_);
  }

  // Whatever the records are: refused as corrupt, or a state that works.
  static void RestoreAny(const std::vector<MetadataRecord>& records, MonotonicTime now) {
    ClusterState state(ClusterState::Options{}, 9);
    const auto restored = state.Restore(records, now);
    if (!restored.has_value()) {
      ENGRAM_CHECK(restored.error().code() == StatusCode::kCorrupt);
      return;
    }
    const auto status = state.ClusterStatus(now);
    for (const proto::VersionStatus& version : status.versions()) {
      ENGRAM_CHECK(state.Map(TableVersion(version.version())) != nullptr);
      ENGRAM_CHECK(!state.Ready(TableVersion(version.version())));
    }
    ENGRAM_CHECK(state.DefaultVersion() == TableVersion() ||
                 state.Map(state.DefaultVersion()) != nullptr);
    for (const proto::NodeStatus& node : status.nodes()) {
      proto::HeartbeatRequest message;
      message.set_id(node.id());
      message.set_incarnation(node.incarnation());
      const auto changes = state.Changes(message);
      for (const auto& assignment : changes.changed()) {
        proto::HeldVersion* held = message.add_held();
        held->set_version(assignment.version());
        *held->mutable_ready_slots() = assignment.slots();
        *held->mutable_ready_digests() = assignment.digests();
      }
      (void)state.Step(NodeHeartbeat{message}, now);
    }
    (void)state.Step(TimePassed{}, now + std::chrono::hours(1));
  }

 private:
  void Restart() {
    std::vector<MetadataRecord> records;
    for (const auto& [key, value] : disk_) records.push_back({key, value});
    state_ = std::make_unique<ClusterState>(ClusterState::Options{}, ++term_);
    const auto restored = state_->Restore(records, now_);
    ENGRAM_CHECK(restored.has_value());  // its own records
    for (const MetadataRecord& record : restored->records) disk_[record.key] = *record.value;
    Check();
  }

  void Check() {
    const proto::GetStatusReply status = state_->ClusterStatus(now_);
    proto::GetStatusReply received;
    ENGRAM_CHECK(received.ParseFromString(status.SerializeAsString()));
    for (const proto::VersionStatus& version : status.versions()) {
      const TableVersion number(version.version());
      const auto map = state_->Map(number);
      // What clients get, they accept.
      const auto accepted = ShardMapFromProto(ShardMapToProto(*map), version.slot_count());
      ENGRAM_CHECK(accepted.has_value());
      ENGRAM_CHECK(map->epoch >= epochs_[number]);
      epochs_[number] = map->epoch;
      ENGRAM_CHECK(version.ready_slots() <= version.slot_count());
      ENGRAM_CHECK(state_->Ready(number) == (version.ready_slots() == version.slot_count()));
    }
  }

  uint64_t term_ = 1;
  std::unique_ptr<ClusterState> state_ =
      std::make_unique<ClusterState>(ClusterState::Options{}, term_);
  MonotonicTime now_{std::chrono::seconds(1)};
  std::map<std::string, std::string> disk_;
  std::map<TableVersion, Epoch> epochs_;
  TableVersion newest_;
};

// Records that nothing but chance made: keys by number, values as they come. No version records of
// chance, whose layouts may be of any size: those are reached by damaging real ones.
void RestoreChance(Events events) {
  static constexpr const char* kKeys[] = {"cluster",   "node/a",           "node/",   "version/x",
                                          "version/0", "version/1/owners", "rubbish", "version/"};
  std::map<std::string, std::string> disk;
  for (size_t i = 0; i < kEventsMax; ++i) {
    const auto piece = events.Next();
    if (!piece.has_value()) break;
    disk[kKeys[piece->kind % std::size(kKeys)]] = std::string(piece->bytes);
  }
  std::vector<MetadataRecord> records;
  for (const auto& [key, value] : disk) records.push_back({key, value});
  Cluster::RestoreAny(records, MonotonicTime{std::chrono::seconds(1)});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  Events events(data + 1, size - 1);
  if (data[0] == 'R') {
    RestoreChance(events);
    return 0;
  }
  Cluster cluster;
  for (size_t i = 0; i < kEventsMax; ++i) {
    const auto piece = events.Next();
    if (!piece.has_value()) break;
    if (piece->kind >= 252) {
      cluster.RestoreDamaged(*piece);
      break;  // a damaged spec may take a while: once an input
    } else {
      cluster.Take(*piece);
    }
  }
  return 0;
}
