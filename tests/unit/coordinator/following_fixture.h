// A coordinator that leads and follows as the test says.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/coordinator/service_fixture.h"

namespace engram {

// A store that several processes share, as the test says who leads.
class SharedStore final : public MetadataStore {
 public:
  struct World {
    Leadership leadership;
    std::function<void()> on_change;
    std::vector<MetadataRecord> records;
    Status commit;
    uint64_t resigned = 0;
  };
  explicit SharedStore(World* world) : world_(world) {}
  Status Campaign(std::string /*address*/, std::function<void()> on_change) override {
    world_->on_change = std::move(on_change);
    return Status();
  }
  Leadership leadership() const override { return world_->leadership; }
  void Resign(uint64_t term) override {
    world_->resigned = term;
    if (world_->leadership.term == term) world_->leadership.term = 0;
  }
  bool shared() const override { return true; }
  Result<std::vector<MetadataRecord>> ReadAll() override { return world_->records; }
  Status Commit(uint64_t term, const std::vector<MetadataRecord>& records) override {
    if (!world_->commit.ok()) return world_->commit;
    if (term != world_->leadership.term) return Status(StatusCode::kFailedPrecondition, "deposed");
    std::map<std::string, MetadataRecord> all;
    for (const MetadataRecord& record : world_->records) all[record.key] = record;
    for (const MetadataRecord& record : records) all[record.key] = record;
    world_->records.clear();
    for (const auto& [key, record] : all) world_->records.push_back(record);
    return Status();
  }

 private:
  World* const world_;
};

class FollowingServiceTest : public CoordinatorServiceTest {
 protected:
  void SetUp() override {
    WriteCheckpoint();
    service_ = std::make_unique<CoordinatorService>(
        io_.get_executor(), std::make_unique<SharedStore>(&world_), options_,
        [this](const Status& status) { fatal_ = status; });
    ASSERT_TRUE(service_->Start("here:1").ok());
  }
  void BecomeLeader(uint64_t term) {
    world_.leadership = {term, "here:1", nullptr, {}};
    Changed();
  }
  void BecomeFollower(const std::string& leader) {
    world_.leadership = {0, leader,
                         std::make_shared<const std::vector<MetadataRecord>>(world_.records),
                         SteadyClock().Now()};
    Changed();
  }
  void Changed() {
    world_.on_change();
    io_.restart();
    io_.poll();
  }
  SharedStore::World world_;
};

}  // namespace engram
