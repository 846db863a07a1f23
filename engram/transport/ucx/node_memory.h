// A node's slots as one reader's session reaches them by itself: keys of the regions, and where
// each slot lies.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engram/transport/row_copy.h"
#include "engram/transport/row_reader.h"
#include "engram/transport/ucx/ucx_endpoint.h"
#include "engram/transport/ucx/ucx_remote_key.h"
#include "proto/session.pb.h"

namespace engram {

// Where a row lies for a one-sided read.
struct RemoteRow {
  const UcxRemoteKey* key = nullptr;  // null: not listed
  uint64_t address = 0;
};

// Thread-compatible. Its keys live no longer than the endpoints given.
class NodeMemory {
 public:
  explicit NodeMemory(const NodeTarget& target)
      : slot_shift_(target.slot_shift),
        row_mask_((uint64_t{1} << target.slot_shift) - 1),
        row_stride_(target.row_stride),
        slots_(target.slot_count) {}

  struct Access {
    UcxEndpoint* endpoint = nullptr;            // of the gather context
    UcxEndpoint* one_sided_endpoint = nullptr;  // null: off
    bool map = false;                           // the host is the same, and mapping is wanted
  };
  // Takes a directory: all of it, or on an error nothing. A region that cannot be reached turns its
  // way off and says why. ERRORS: kMalformed naming the field.
  [[nodiscard]] Status Update(const proto::GetDirectoryReply& directory, const Access& access);

  [[nodiscard]] bool can_map() const { return can_map_; }
  [[nodiscard]] bool can_read_one_sided() const { return can_read_one_sided_; }
  [[nodiscard]] const std::string& map_off() const { return map_off_; }
  [[nodiscard]] const std::string& one_sided_off() const { return one_sided_off_; }
  [[nodiscard]] uint64_t generation() const { return generation_; }
  // Maps that were added by the last Update.
  [[nodiscard]] std::span<const std::span<const std::byte>> new_maps() const { return new_maps_; }

  // kNotOwned: not listed, or not a row: the node's own answer decides. Precondition: can_map().
  [[nodiscard]] FoundRow FindMapped(RowAddress address) const {
    const Slot* const slot = Find(address);
    if (slot == nullptr) return {nullptr, StatusCode::kNotOwned};
    return {slot->mapped + (address.value() & row_mask_) * row_stride_, StatusCode::kOk};
  }
  // Precondition: can_read_one_sided().
  [[nodiscard]] RemoteRow FindRemote(RowAddress address) const {
    const Slot* const slot = Find(address);
    if (slot == nullptr) return {};
    return {slot->key, slot->remote + (address.value() & row_mask_) * row_stride_};
  }
  // `count` random rows that are listed; none when nothing is.
  [[nodiscard]] std::vector<RowAddress> SampleRows(uint32_t count, uint64_t seed) const;

 private:
  struct Region {
    std::unique_ptr<UcxRemoteKey> key;            // gather context's, kept for the mapping
    std::unique_ptr<UcxRemoteKey> one_sided_key;  // one-sided context's
    const std::byte* mapped = nullptr;
    uint64_t address = 0;
    uint64_t bytes = 0;
  };
  struct Slot {
    const std::byte* mapped = nullptr;
    const UcxRemoteKey* key = nullptr;
    uint64_t remote = 0;
    uint32_t row_count = 0;  // 0 = not listed
  };

  [[nodiscard]] const Slot* Find(RowAddress address) const {
    const uint64_t slot = address.value() >> slot_shift_;
    if (slot >= slots_.size() || (address.value() & row_mask_) >= slots_[slot].row_count) {
      return nullptr;
    }
    return &slots_[slot];
  }
  [[nodiscard]] Status Check(const proto::GetDirectoryReply& directory) const;
  void AddRegion(const proto::GetDirectoryReply& directory, int index, const Access& access);

  const uint32_t slot_shift_;
  const uint64_t row_mask_;
  const uint32_t row_stride_;
  std::vector<Region> regions_;
  std::vector<std::span<const std::byte>> new_maps_;
  std::vector<Slot> slots_;       // [slot_count]
  std::vector<uint32_t> listed_;  // slots that are
  uint64_t generation_ = 0;
  bool can_map_ = false;
  bool can_read_one_sided_ = false;
  std::string map_off_ = "no directory";
  std::string one_sided_off_ = "no directory";
};

}  // namespace engram
