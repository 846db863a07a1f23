#include "engram/transport/ucx/node_memory.h"

#include <random>

namespace engram {
namespace {

constexpr int kRegionsMax = 4096;

Status Malformed(const std::string& what) {
  return {StatusCode::kMalformed, "the node's slot directory: " + what};
}

}  // namespace

Status NodeMemory::Check(const proto::GetDirectoryReply& directory) const {
  const int regions = directory.region_addresses_size();
  if (regions > kRegionsMax) return Malformed("more than 4096 regions");
  if (directory.region_keys_size() != regions || directory.region_bytes_size() != regions ||
      directory.one_sided_keys_size() != regions) {
    return Malformed("the lists of regions differ in length");
  }
  for (size_t i = 0; i < regions_.size(); ++i) {
    const int region = static_cast<int>(i);
    if (region >= regions || directory.region_addresses(region) != regions_[i].address ||
        directory.region_bytes(region) != regions_[i].bytes) {
      return Malformed("region " + std::to_string(i) + " changed");
    }
  }
  const int count = directory.slots_size();
  if (directory.slot_regions_size() != count || directory.slot_offsets_size() != count ||
      directory.slot_row_counts_size() != count) {
    return Malformed("the lists of slots differ in length");
  }
  for (int i = 0; i < count; ++i) {
    const uint32_t region = directory.slot_regions(i);
    const uint64_t rows = directory.slot_row_counts(i);
    if (directory.slots(i) >= slots_.size() || rows > row_mask_ + 1) {
      return Malformed("slot " + std::to_string(directory.slots(i)) + " is out of range");
    }
    const uint64_t bytes = region < static_cast<uint32_t>(regions)
                               ? directory.region_bytes(static_cast<int>(region))
                               : 0;
    if (directory.slot_offsets(i) > bytes ||
        rows * row_stride_ > bytes - directory.slot_offsets(i)) {
      return Malformed("slot " + std::to_string(directory.slots(i)) + " is not inside its region");
    }
  }
  return {};
}

Status NodeMemory::Update(const proto::GetDirectoryReply& directory, const Access& access) {
  ENGRAM_RETURN_IF_ERROR(Check(directory));
  if (regions_.empty()) {
    can_map_ = access.map;
    can_read_one_sided_ = access.one_sided_endpoint != nullptr;
    map_off_ = access.map ? "" : map_off_;
    one_sided_off_ = can_read_one_sided_ ? "" : one_sided_off_;
  }
  new_maps_.clear();
  for (int i = static_cast<int>(regions_.size()); i < directory.region_addresses_size(); ++i) {
    AddRegion(directory, i, access);
  }
  for (const uint32_t slot : listed_) slots_[slot] = {};
  listed_.clear();
  for (int i = 0; i < directory.slots_size(); ++i) {
    const Region& region = regions_[directory.slot_regions(i)];
    Slot& slot = slots_[directory.slots(i)];
    slot.row_count = directory.slot_row_counts(i);
    slot.remote = region.address + directory.slot_offsets(i);
    slot.key = region.one_sided_key.get();
    slot.mapped = region.mapped == nullptr ? nullptr : region.mapped + directory.slot_offsets(i);
    listed_.push_back(directory.slots(i));
  }
  generation_ = directory.generation();
  return {};
}

void NodeMemory::AddRegion(const proto::GetDirectoryReply& directory, int index,
                           const Access& access) {
  Region region;
  region.address = directory.region_addresses(index);
  region.bytes = directory.region_bytes(index);
  if (access.one_sided_endpoint != nullptr) {
    auto key = UcxRemoteKey::Unpack(*access.one_sided_endpoint, directory.one_sided_keys(index));
    if (key.has_value()) {
      region.one_sided_key = *std::move(key);
    } else {
      can_read_one_sided_ = false;
      one_sided_off_ = key.error().message();
    }
  }
  if (access.map) {
    // A node that exercises one-sided reads over shared memory has one key for both.
    const UcxRemoteKey* mapping = region.one_sided_key.get();
    if (!directory.region_keys(index).empty()) {
      auto key = UcxRemoteKey::Unpack(*access.endpoint, directory.region_keys(index));
      if (key.has_value()) region.key = *std::move(key);
      mapping = region.key.get();
    }
    auto mapped = mapping == nullptr
                      ? Result<const std::byte*>(Error(StatusCode::kUnavailable, "no key for it"))
                      : mapping->Map(region.address);
    if (mapped.has_value()) {
      region.mapped = *mapped;
      new_maps_.push_back({region.mapped, region.bytes});
    } else {
      can_map_ = false;
      map_off_ = mapped.error().message();
    }
  }
  regions_.push_back(std::move(region));
}

std::vector<RowAddress> NodeMemory::SampleRows(uint32_t count, uint64_t seed) const {
  std::vector<RowAddress> rows;
  if (listed_.empty()) return rows;
  std::mt19937_64 random(seed);
  rows.reserve(count);
  while (rows.size() < count) {
    const uint64_t slot = listed_[random() % listed_.size()];
    if (slots_[slot].row_count == 0) return {};
    rows.emplace_back((slot << slot_shift_) + random() % slots_[slot].row_count);
  }
  return rows;
}

}  // namespace engram
