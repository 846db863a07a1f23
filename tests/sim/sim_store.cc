#include "tests/sim/sim_store.h"

namespace engram::sim {

SimStore::Election SimStore::Campaign(const std::string& candidate, uint64_t term) {
  const MonotonicTime now = world_->Now();
  const bool leads = term != 0 && term == term_ && leader_ == candidate && now < lease_end_;
  if (!leads && now < lease_end_) return {0, leader_};
  if (!leads) {
    ++term_;
    leader_ = candidate;
    world_->Note("store: " + candidate + " leads at term " + std::to_string(term_));
  }
  lease_end_ = now + kLease;
  return {term_, leader_};
}

void SimStore::Resign(uint64_t term) {
  if (term == term_) lease_end_ = world_->Now();
}

Status SimStore::Commit(uint64_t term, const std::vector<MetadataRecord>& records) {
  // As etcd does: the transaction compares the election key, which is gone with its lease.
  const bool over = term != term_ || world_->Now() >= lease_end_;
  if (over && bug_ != PlantedBug::kForgetFence) {
    return {StatusCode::kFailedPrecondition, "the term is over"};
  }
  if (term < term_)
    world_->Violated("a write of term " + std::to_string(term) + " took effect in term " +
                     std::to_string(term_));
  for (const MetadataRecord& record : records) {
    if (record.value.has_value()) {
      records_[record.key] = *record.value;
    } else {
      records_.erase(record.key);
    }
  }
  ++revision_;
  contents_ = nullptr;
  return {};
}

SimStore::Contents SimStore::Read() {
  if (contents_ == nullptr) {
    auto all = std::make_shared<std::vector<MetadataRecord>>();
    for (const auto& [key, value] : records_) all->push_back({key, value});
    contents_ = std::move(all);
  }
  return {revision_, leader_, contents_};
}

}  // namespace engram::sim
