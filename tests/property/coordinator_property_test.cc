// ClusterState against a slow, obvious model, over random histories of nodes that start, load, fall
// silent and lie, are drained and lost, of versions that are asked for and dropped, and of
// coordinators that restart or die halfway.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "coordinator/cluster_state.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kOtherContents = 1u << 20;  // added to a digest: not what was loaded before

TableSpec SmallSpec(int64_t rows) {
  TableSpec spec;
  spec.hash.max_ngram_size = 2;
  spec.hash.head_count = 2;
  spec.hash.base_sizes = {rows};
  spec.hash.layer_ids = {1};
  spec.hash.compressed_vocab_size = 100;
  spec.row_values = 32;
  return spec;
}

struct ModelNode {
  proto::NodeDescription description;
  bool up = false;
  MonotonicTime heard_of;
};

struct ModelVersion {
  uint32_t replica_count = 0;
  bool make_current = false;
  bool was_ready = false;
  ShardMap map;                                    // as last seen
  std::map<uint32_t, uint64_t> digests;            // slot -> the first one told
  std::map<std::string, std::set<uint32_t>> held;  // node -> ready slots, of its incarnation
};

// What the cluster should look like, kept the simple way, and what a disk would hold.
class History {
 public:
  History() { Restart(); }

  void Step(const ClusterEvent& event) {
    effects_ = state_->Step(event, now_);
    Write(effects_);
  }
  // The coordinator dies after it has decided and before anything is durable: nobody saw it.
  void StepAndDie(const ClusterEvent& event) {
    (void)state_->Step(event, now_);
    Restart();
  }

  void Restart() {
    std::vector<MetadataRecord> records;
    for (const auto& [key, value] : disk_) records.push_back({key, value});
    state_ = std::make_unique<ClusterState>(ClusterState::Options{}, ++term_);
    const auto restored = state_->Restore(records, now_);
    RC_ASSERT(restored.has_value());
    Write(*restored);
    for (auto& [id, node] : nodes_) {
      node.up = true;
      node.heard_of = now_;
    }
    for (auto& [number, version] : versions_) {
      version.held.clear();
      RC_ASSERT(state_->Map(number)->epoch > version.map.epoch);
    }
  }

  void NodeRegisters(const std::string& id) {
    const auto found = nodes_.find(id);
    const bool same_process = found != nodes_.end() && *rc::gen::arbitrary<bool>();
    proto::NodeDescription node;
    node.set_id(id);
    node.set_incarnation(same_process ? found->second.description.incarnation() : ++incarnations_);
    node.set_zone(*rc::gen::element<std::string>("", "x", "y"));
    node.set_data_address("host-" + id + (*rc::gen::arbitrary<bool>() ? ":7100" : ":7200"));
    node.set_capacity_bytes(*rc::gen::element<uint64_t>(0, 100'000, 1ull << 40));
    if (Dies()) return StepAndDie(NodeRegistered{node});
    Step(NodeRegistered{node});
    RC_ASSERT(effects_.status.ok());
    nodes_[id] = ModelNode{node, true, now_};
    if (same_process) return;
    for (auto& [number, version] : versions_) version.held.erase(id);
  }

  void NodeSays(const std::string& id) {
    const auto found = nodes_.find(id);
    proto::HeartbeatRequest message;
    message.set_id(id);
    const bool present = found != nodes_.end() && *rc::gen::inRange(0, 10) != 0;
    message.set_incarnation(present ? found->second.description.incarnation() : 1'000'000);
    for (const auto& [number, version] : versions_) {
      if (*rc::gen::inRange(0, 3) != 0) Tell(id, number, version, message.add_held());
    }
    if (Dies()) return StepAndDie(NodeHeartbeat{message});
    Step(NodeHeartbeat{message});
    if (!present) {
      RC_ASSERT(effects_.status.code() ==
                (found == nodes_.end() ? StatusCode::kNotFound : StatusCode::kWrongIncarnation));
      return;
    }
    RC_ASSERT(effects_.status.ok());
    found->second.up = true;
    found->second.heard_of = now_;
    for (const proto::HeldVersion& held : message.held()) Take(id, held);
  }

  void NodeIsDrained(const std::string& id) {
    const NodeDrained event{id, *rc::gen::arbitrary<bool>()};
    if (Dies()) return StepAndDie(event);
    Step(event);
    RC_ASSERT(effects_.status.ok() == nodes_.contains(id));
  }

  void VersionIsDropped() {
    const TableVersion number(*rc::gen::inRange<uint64_t>(1, newest_number_.value() + 2));
    if (Dies()) return StepAndDie(VersionDropped{number});
    Step(VersionDropped{number});
    RC_ASSERT(effects_.status.ok() == (versions_.contains(number) && number != current_));
    if (effects_.status.ok()) versions_.erase(number);
  }

  void TimePasses() {
    now_ += milliseconds(*rc::gen::element(0, 500, 2999, 3000, 10'000, 60'000));
    if (Dies()) return StepAndDie(TimePassed{});
    Step(TimePassed{});
    for (auto& [id, node] : nodes_) {
      if (now_ - node.heard_of >= ClusterState::Options{}.down_after) node.up = false;
    }
  }

  void VersionIsRequested() {
    VersionRequested request;
    request.spec = SmallSpec(*rc::gen::element<int64_t>(30, 100, 1000));
    request.checkpoint_path = "/models/a";
    request.replica_count = *rc::gen::element<uint32_t>(0, 1, 2, 3, 4);
    request.make_current = *rc::gen::arbitrary<bool>();
    request.expect_nodes = *rc::gen::inRange<uint32_t>(0, 4);
    if (Dies()) return StepAndDie(request);
    Step(request);
    if (!effects_.status.ok()) {
      RC_ASSERT(effects_.created == TableVersion());
      RC_ASSERT(effects_.records.empty());
      return;
    }
    const TableVersion number = effects_.created;
    RC_ASSERT(number > newest_number_);  // never one that was given before
    newest_number_ = number;
    ModelVersion& version = versions_[number];
    version.replica_count = std::max(request.replica_count, 1u);
    version.make_current = request.make_current;
    version.map = *state_->Map(number);
    RC_ASSERT(version.map.epoch == Epoch(1));
    RC_ASSERT(version.map.nodes.size() >= request.expect_nodes);
  }

  // The state is what the model says.
  void Check() {
    for (auto& [number, version] : versions_) CheckVersion(number, &version);
    CheckAssignments();
    TableVersion expected = current_;
    for (const auto& [number, version] : versions_) {
      if (current_ == TableVersion() && version.make_current) expected = number;
    }
    RC_ASSERT(state_->DefaultVersion() == expected);
    RC_ASSERT(state_->Map(TableVersion(newest_number_.value() + 1)) == nullptr);
    const proto::GetStatusReply status = state_->ClusterStatus(now_);
    RC_ASSERT(static_cast<size_t>(status.nodes_size()) == nodes_.size());
    for (const proto::NodeStatus& node : status.nodes()) {
      RC_ASSERT(node.up() == nodes_.at(node.id()).up);
      size_t held = 0;
      for (const auto& [number, version] : versions_) {
        const auto slots = version.held.find(node.id());
        if (slots != version.held.end()) held += slots->second.size();
      }
      RC_ASSERT(node.ready_slots() == held);
    }
  }

 private:
  static bool Dies() { return *rc::gen::inRange(0, 25) == 0; }

  void Write(const ClusterEffects& effects) {
    for (const MetadataRecord& record : effects.records) {
      if (record.value.has_value()) {
        disk_[record.key] = *record.value;
      } else {
        disk_.erase(record.key);
      }
    }
  }

  // All, some or none of the slots that the node is assigned, sometimes one that is not its own or
  // not as loaded.
  void Tell(const std::string& id, TableVersion number, const ModelVersion& version,
            proto::HeldVersion* held) const {
    held->set_version(number.value());
    proto::HeartbeatRequest knows_nothing;
    knows_nothing.set_id(id);
    std::set<uint32_t> assigned;
    const proto::HeartbeatReply reply = state_->Changes(knows_nothing);
    for (const proto::SlotAssignment& assignment : reply.changed()) {
      if (assignment.version() != number.value()) continue;
      assigned.insert(assignment.slots().begin(), assignment.slots().end());
      held->set_assignment_revision(assignment.revision());
      for (const uint32_t slot : assignment.damaged_slots()) RC_ASSERT(assigned.contains(slot));
    }
    const uint32_t percent = *rc::gen::element<uint32_t>(0, 50, 100, 100, 100);
    const bool lies = *rc::gen::inRange(0, 6) == 0;
    const uint32_t salt = *rc::gen::inRange<uint32_t>(0, 1000);
    const auto slots = static_cast<uint32_t>(version.map.owners.size() / version.map.replica_count);
    for (uint32_t slot = 0; slot < slots + 2; ++slot) {
      const bool own = assigned.contains(slot);
      const uint32_t dice = (slot * 2654435761u + salt * 40503u) >> 16;
      if (own ? dice % 100 >= percent : !lies || dice % 20 != 0) continue;
      held->add_ready_slots(slot);
      held->add_ready_digests(1 + slot + (lies && dice % 7 == 0 ? kOtherContents : 0));
    }
    if (*rc::gen::inRange(0, 4) == 0) {
      held->add_damaged_slots(*rc::gen::inRange<uint32_t>(0, slots + 2));
    }
  }

  static bool Owns(const ShardMap& map, uint32_t slot, const std::string& id) {
    const auto owners = map.Replicas(SlotIndex(slot));
    return std::any_of(owners.begin(), owners.end(),
                       [&](NodeIndex owner) { return map.nodes[owner.value()].id == id; });
  }

  void Take(const std::string& id, const proto::HeldVersion& told) {
    ModelVersion& version = versions_.at(TableVersion(told.version()));
    const uint32_t slots = SlotCount(version);
    const auto known = std::find_if(version.map.nodes.begin(), version.map.nodes.end(),
                                    [&](const ShardMapNode& node) { return node.id == id; });
    if (known == version.map.nodes.end()) return;
    const ShardMap after = *state_->Map(TableVersion(told.version()));
    std::set<uint32_t>& held = version.held[id];
    held.clear();
    for (int i = 0; i < told.ready_slots_size(); ++i) {
      const uint32_t slot = told.ready_slots(i);
      // Its own before, or its own now, because it has it.
      if (slot >= slots || !(Owns(version.map, slot, id) || Owns(after, slot, id))) continue;
      const auto digest = version.digests.emplace(slot, told.ready_digests(i)).first;
      if (digest->second == told.ready_digests(i)) held.insert(slot);
    }
    TakeNewOwners(id, version, after);
    if (ExpectReady(version) && !version.was_ready) {
      version.was_ready = true;
      const TableVersion number(told.version());
      if (version.make_current && number > current_) current_ = number;
    }
  }

  // Owners change only to the node that has just told that it has the slot, at a new epoch.
  static void TakeNewOwners(const std::string& id, ModelVersion& version, const ShardMap& after) {
    if (after.owners == version.map.owners) return;
    RC_ASSERT(after.epoch > version.map.epoch);
    for (size_t place = 0; place < after.owners.size(); ++place) {
      if (after.owners[place] == version.map.owners[place]) continue;
      RC_ASSERT(after.nodes[after.owners[place].value()].id == id);
      const auto slot = static_cast<uint32_t>(place / version.replica_count);
      RC_ASSERT(version.held.at(id).contains(slot));
    }
    version.map.owners = after.owners;
    for (auto& [node, slots] : version.held) {
      std::erase_if(slots, [&, &name = node](uint32_t slot) { return !Owns(after, slot, name); });
    }
  }

  static uint32_t SlotCount(const ModelVersion& version) {
    return static_cast<uint32_t>(version.map.owners.size() / version.replica_count);
  }
  static bool ExpectReady(const ModelVersion& version) {
    std::set<uint32_t> ready;
    for (const auto& [id, slots] : version.held) ready.insert(slots.begin(), slots.end());
    return ready.size() == SlotCount(version);
  }

  void CheckVersion(TableVersion number, ModelVersion* version) {
    const auto map = state_->Map(number);
    RC_ASSERT(map != nullptr);
    const auto layout = TableLayout::Create(*state_->Spec(number));
    RC_ASSERT(layout.has_value());
    RC_ASSERT(map->Validate(layout->slot_count()).ok());
    RC_ASSERT(map->version == number);
    RC_ASSERT(map->replica_count == version->replica_count);
    RC_ASSERT(map->owners == version->map.owners);  // as TakeNewOwners followed it
    for (uint32_t slot = 0; slot < layout->slot_count(); ++slot) {
      const auto replicas = map->Replicas(SlotIndex(slot));
      const std::set<NodeIndex> owners(replicas.begin(), replicas.end());
      RC_ASSERT(owners.size() == version->replica_count && !owners.contains(kNoNode));
    }
    RC_ASSERT(map->epoch >= version->map.epoch);
    if (!(*map == version->map)) RC_ASSERT(map->epoch > version->map.epoch);
    for (const ShardMapNode& node : map->nodes) {
      const ModelNode& expected = nodes_.at(node.id);
      RC_ASSERT(node.zone == expected.description.zone());
      RC_ASSERT(node.address == expected.description.data_address());
      RC_ASSERT(node.incarnation.value() == (expected.up ? expected.description.incarnation() : 0));
    }
    RC_ASSERT(state_->Ready(number) == ExpectReady(*version));
    version->map = *map;
  }

  // A node that knows nothing is told its slots and the few that it is to copy, with the digests
  // that were recorded.
  void CheckAssignments() {
    for (const auto& [id, node] : nodes_) {
      proto::HeartbeatRequest message;
      message.set_id(id);
      message.set_incarnation(node.description.incarnation());
      const proto::HeartbeatReply reply = state_->Changes(message);
      RC_ASSERT(reply.term() == term_);
      for (const proto::SlotAssignment& assignment : reply.changed()) {
        const ModelVersion& version = versions_.at(TableVersion(assignment.version()));
        uint32_t owned = 0;
        for (uint32_t slot = 0; slot < SlotCount(version); ++slot) {
          owned += Owns(version.map, slot, id) ? 1 : 0;
        }
        uint32_t incoming = 0;
        RC_ASSERT(assignment.newest_epoch() == version.map.epoch.value());
        for (int i = 0; i < assignment.slots_size(); ++i) {
          if (i > 0) RC_ASSERT(assignment.slots(i) > assignment.slots(i - 1));
          incoming += Owns(version.map, assignment.slots(i), id) ? 0 : 1;
          const auto digest = version.digests.find(assignment.slots(i));
          RC_ASSERT(assignment.digests(i) ==
                    (digest == version.digests.end() ? 0 : digest->second));
        }
        RC_ASSERT(static_cast<uint32_t>(assignment.slots_size()) == owned + incoming);
        RC_ASSERT(incoming <= 2 * ClusterState::Options{}.incoming_slots_max);
      }
    }
  }

  std::unique_ptr<ClusterState> state_;
  ClusterEffects effects_;
  uint64_t term_ = 0;
  uint64_t incarnations_ = 0;
  MonotonicTime now_{seconds(100)};
  std::map<std::string, std::string> disk_;
  std::map<std::string, ModelNode> nodes_;
  std::map<TableVersion, ModelVersion> versions_;
  TableVersion newest_number_;
  TableVersion current_;
};

RC_GTEST_PROP(ClusterStateProperty, AnyHistoryGivesWhatAnObviousModelSays, ()) {
  History history;
  const int steps = *rc::gen::inRange(1, 40);
  for (int step = 0; step < steps; ++step) {
    const auto id = *rc::gen::element<std::string>("a", "b", "c", "d", "e");
    switch (
        *rc::gen::weightedElement<int>({{4, 0}, {8, 1}, {3, 2}, {3, 3}, {2, 4}, {1, 5}, {1, 6}})) {
      case 0:
        history.NodeRegisters(id);
        break;
      case 1:
        history.NodeSays(id);
        break;
      case 2:
        history.TimePasses();
        break;
      case 3:
        history.VersionIsRequested();
        break;
      case 4:
        history.NodeIsDrained(id);
        break;
      case 5:
        history.VersionIsDropped();
        break;
      default:
        history.Restart();
        break;
    }
    history.Check();
  }
}

// Random events seldom make a version ready: here every node loads whatever it is told.
RC_GTEST_PROP(ClusterStateProperty, AVersionBecomesReadyExactlyWithItsLastSlot, ()) {
  ClusterState state(ClusterState::Options{}, 1);
  const MonotonicTime now{seconds(100)};
  const int node_count = *rc::gen::inRange(1, 6);
  for (int i = 0; i < node_count; ++i) {
    proto::NodeDescription node;
    node.set_id("node-" + std::to_string(i));
    node.set_incarnation(7);
    node.set_data_address("h:1");
    node.set_capacity_bytes(1ull << 40);
    RC_ASSERT(state.Step(NodeRegistered{node}, now).status.ok());
  }
  VersionRequested request;
  request.spec = SmallSpec(*rc::gen::element<int64_t>(30, 300));
  request.replica_count = *rc::gen::inRange<uint32_t>(1, 4);
  const ClusterEffects effects = state.Step(request, now);
  if (static_cast<uint32_t>(node_count) < request.replica_count) {
    RC_ASSERT(effects.status.code() == StatusCode::kFailedPrecondition);
    return;
  }
  const auto map = state.Map(effects.created);
  const auto slots = static_cast<uint32_t>(map->owners.size() / map->replica_count);
  // One replica of each slot is enough, whichever it is; `late` is missing at first.
  const uint32_t late = *rc::gen::inRange<uint32_t>(0, slots);
  const uint32_t salt = *rc::gen::inRange<uint32_t>(0, 1000);
  for (const bool complete : {false, true}) {
    for (int i = 0; i < node_count; ++i) {
      proto::HeartbeatRequest message;
      message.set_id("node-" + std::to_string(i));
      message.set_incarnation(7);
      proto::HeldVersion* held = message.add_held();
      held->set_version(effects.created.value());
      for (uint32_t slot = 0; slot < slots; ++slot) {
        if (slot == late && !complete) continue;
        const auto replicas = map->Replicas(SlotIndex(slot));
        if (map->nodes[replicas[(slot + salt) % map->replica_count].value()].id != message.id()) {
          continue;
        }
        held->add_ready_slots(slot);
        held->add_ready_digests(slot + 1);
      }
      RC_ASSERT(state.Step(NodeHeartbeat{message}, now).status.ok());
    }
    RC_ASSERT(state.Ready(effects.created) == complete);
  }
}

}  // namespace
}  // namespace engram
