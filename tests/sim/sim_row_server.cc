#include "tests/sim/sim_row_server.h"

#include <cstring>

namespace engram::sim {

Result<Region> SimRowServer::AllocateRegion(uint64_t bytes) {
  regions_.push_back(std::make_shared<std::vector<std::byte>>(bytes));
  return Region{static_cast<uint32_t>(regions_.size() - 1), *regions_.back(), false};
}

void SimRowServer::Serve(std::shared_ptr<const ServedSlots> slots) {
  served_[slots->version()] = std::move(slots);
}

MemoryRelease SimRowServer::StartRelease(TableVersion version, Epoch epoch, uint64_t generation) {
  MemoryRelease release{version, epoch, generation, 0, 0};
  release.sessions = leases_.Require(version, {epoch, generation});
  return release;
}

bool SimRowServer::MayReuse(const MemoryRelease& release) {
  if (bug_ == PlantedBug::kSkipLeaseWait) return true;
  // A gather is one step here: no thread of this node is within one.
  return leases_.NoneBehind(release.version, release.sessions, {release.epoch, release.generation},
                            world_->Now());
}

SimRowServer::Opened SimRowServer::OpenSession(const NodeTarget& target, bool wants_directory) {
  if (target.incarnation != Incarnation() && target.incarnation != incarnation_) {
    return {Status(StatusCode::kWrongIncarnation, "this node restarted"), 0, {}, {}};
  }
  if (!served_.contains(target.version)) {
    return {Status(StatusCode::kWrongVersion, "this version is not served here"), 0, {}, {}};
  }
  Opened opened;
  opened.session = ++sessions_;
  opened.incarnation = incarnation_;
  leases_.Open(opened.session, target.version, world_->Now());  // before its directory
  if (wants_directory) opened.directory = *Directory(target.version);
  return opened;
}

SimRowServer::Grant SimRowServer::RenewLease(const LeaseRequest& request) {
  Grant grant;
  grant.sequence = request.sequence;
  const auto served = served_.find(request.version);
  if (served == served_.end()) {
    grant.status = StatusCode::kWrongVersion;
    return grant;
  }
  grant.newest_epoch = served->second->newest_epoch();
  grant.generation = served->second->generation();
  if (leases_.Renew(request.session, request.progress, world_->Now() + kLease)) {
    grant.lease = kLease;
  }
  return grant;
}

std::optional<SlotDirectory> SimRowServer::Directory(TableVersion version) const {
  const auto served = served_.find(version);
  if (served == served_.end()) return std::nullopt;
  const ServedSlots& slots = *served->second;
  SlotDirectory directory;
  directory.generation = slots.generation();
  for (uint32_t s = 0; s < slots.layout().slot_count(); ++s) {
    const std::byte* rows = slots.Rows(SlotIndex(s));
    if (rows == nullptr) continue;
    directory.places.push_back({SlotIndex(s), regions_[slots.Place(SlotIndex(s)).region], rows});
  }
  return directory;
}

SimRowServer::Gathered SimRowServer::Gather(TableVersion version,
                                            std::span<const RowAddress> rows) const {
  Gathered gathered;
  const auto served = served_.find(version);
  if (served == served_.end()) {
    gathered.status = StatusCode::kWrongVersion;
    return gathered;
  }
  const ServedSlots& slots = *served->second;
  const TableLayout& layout = slots.layout();
  gathered.newest_epoch = slots.newest_epoch();
  gathered.rows.resize(rows.size() * layout.row_stride());
  gathered.statuses.assign(rows.size(), StatusCode::kOk);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::byte* slot = slots.Rows(layout.SlotOf(rows[i]));
    if (slot == nullptr) {
      gathered.statuses[i] = StatusCode::kNotOwned;
      continue;
    }
    std::memcpy(gathered.rows.data() + i * layout.row_stride(),
                slot + size_t{layout.RowInSlot(rows[i])} * layout.row_stride(),
                layout.row_stride());
  }
  return gathered;
}

std::vector<std::byte> SimRowServer::CopySlot(TableVersion version, SlotIndex slot) const {
  const auto served = served_.find(version);
  if (served == served_.end()) return {};
  const std::byte* rows = served->second->Rows(slot);
  if (rows == nullptr) return {};
  return {rows, rows + served->second->layout().slot_bytes(slot)};
}

}  // namespace engram::sim
