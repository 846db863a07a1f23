// A cluster state, told as stories: given events, expected effects.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "coordinator/cluster_state.h"

namespace engram {

// A cluster state with a clock and a memory of what was persisted.
class ClusterStory : public testing::Test {
 protected:
  ClusterEffects Step(const ClusterEvent& event) {
    ClusterEffects effects = state_->Step(event, now_);
    Write(effects);
    return effects;
  }
  void Write(const ClusterEffects& effects) {
    for (const MetadataRecord& record : effects.records) {
      if (record.value.has_value()) {
        disk_[record.key] = *record.value;
      } else {
        disk_.erase(record.key);
      }
    }
  }
  void NodeStarts(const std::string& id, uint64_t incarnation, uint64_t capacity = 1ull << 40) {
    proto::NodeDescription node;
    node.set_id(id);
    node.set_incarnation(incarnation);
    node.set_zone("zone-" + id);
    node.set_data_address("127.0.0.1:7100");
    node.set_capacity_bytes(capacity);
    EXPECT_TRUE(Step(NodeRegistered{node}).status.ok());
  }
  Status NodeSays(const proto::HeartbeatRequest& message) {
    return Step(NodeHeartbeat{message}).status;
  }
  static proto::HeartbeatRequest Alive(const std::string& id, uint64_t incarnation) {
    proto::HeartbeatRequest message;
    message.set_id(id);
    message.set_incarnation(incarnation);
    return message;
  }
  [[nodiscard]] proto::SlotAssignment AssignmentOf(const std::string& id, uint64_t incarnation) {
    const proto::HeartbeatReply reply = state_->Changes(Alive(id, incarnation));
    return reply.changed_size() == 0 ? proto::SlotAssignment() : reply.changed(0);
  }
  // The node does what it is told: loads everything assigned and says so.
  Status NodeLoads(const std::string& id, uint64_t incarnation, uint64_t digest_salt = 0) {
    proto::HeartbeatRequest message = Alive(id, incarnation);
    const proto::HeartbeatReply reply = state_->Changes(message);
    for (const proto::SlotAssignment& assignment : reply.changed()) {
      proto::HeldVersion* held = message.add_held();
      held->set_version(assignment.version());
      held->set_assignment_revision(assignment.revision());
      for (const uint32_t slot : assignment.slots()) {
        held->add_ready_slots(slot);
        held->add_ready_digests(1000 + slot + digest_salt);
      }
    }
    return NodeSays(message);
  }
  static VersionRequested SmallVersion(uint32_t replicas) {
    VersionRequested request;
    request.spec.hash.max_ngram_size = 3;
    request.spec.hash.head_count = 2;
    request.spec.hash.base_sizes = {500, 500};
    request.spec.hash.layer_ids = {1};
    request.spec.hash.compressed_vocab_size = 100;
    request.spec.row_values = 32;
    request.checkpoint_path = "/models/a";
    request.replica_count = replicas;
    return request;
  }
  TableVersion VersionIsCreated(uint32_t replicas = 1) {
    VersionRequested request = SmallVersion(replicas);
    request.make_current = true;
    const ClusterEffects effects = Step(request);
    EXPECT_TRUE(effects.status.ok()) << effects.status.ToString();
    return effects.created;
  }
  void CoordinatorRestarts() {
    std::vector<MetadataRecord> records;
    for (const auto& [key, value] : disk_) records.push_back({key, value});
    state_ = std::make_unique<ClusterState>(state_->options(), state_->term() + 1);
    auto effects = state_->Restore(records, now_);
    ASSERT_TRUE(effects.has_value()) << effects.error().ToString();
    Write(*effects);
  }
  Epoch EpochOf(TableVersion version) { return state_->Map(version)->epoch; }

  std::unique_ptr<ClusterState> state_ = std::make_unique<ClusterState>(ClusterState::Options{}, 1);
  MonotonicTime now_{std::chrono::seconds(100)};
  std::map<std::string, std::string> disk_;
};

}  // namespace engram
