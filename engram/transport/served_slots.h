// The slots of one version that a memory node serves: written by its slot store, read by the
// transport's threads without locks.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engram/base/check.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"

namespace engram {

// Where a slot's rows lie for a reader that maps or reads memory itself.
struct SlotPlace {
  uint32_t region = 0;  // RowServer region number
  uint64_t offset = 0;  // bytes from the region's start
};

// Thread-safe: Publish and Withdraw from the slot store's one thread, the rest from any.
class ServedSlots {
 public:
  ServedSlots(TableVersion version, const ModelIdentity& identity,
              std::shared_ptr<const TableLayout> layout)
      : version_(version),
        identity_(identity),
        layout_(std::move(layout)),
        rows_(layout_->slot_count()),
        places_(layout_->slot_count()) {}

  [[nodiscard]] TableVersion version() const { return version_; }
  [[nodiscard]] const ModelIdentity& identity() const { return identity_; }
  [[nodiscard]] const TableLayout& layout() const { return *layout_; }

  // `rows` [row_count][row_stride] are complete, verified, and stay put until Withdraw.
  void Publish(SlotIndex slot, const std::byte* rows, SlotPlace place) {
    ENGRAM_CHECK(place.region < 1u << kRegionBits && place.offset >> kOffsetBits == 0);
    places_[slot.value()].store(uint64_t{place.region} << kOffsetBits | place.offset,
                                std::memory_order_relaxed);
    rows_[slot.value()].store(rows, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_release);
  }
  // After this no new read finds the slot; reads in progress may still use its memory: who reuses
  // it waits until RowServer::MayReuse.
  void Withdraw(SlotIndex slot) {
    rows_[slot.value()].store(nullptr, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_release);
  }

  // Null when this node does not serve the slot. Precondition: slot < layout().slot_count().
  [[nodiscard]] const std::byte* Rows(SlotIndex slot) const {
    return rows_[slot.value()].load(std::memory_order_acquire);
  }
  // Where the slot lies now, or lay last. Precondition: Rows(slot) was not null.
  [[nodiscard]] SlotPlace Place(SlotIndex slot) const {
    const uint64_t place = places_[slot.value()].load(std::memory_order_relaxed);
    return {static_cast<uint32_t>(place >> kOffsetBits),
            place & ((uint64_t{1} << kOffsetBits) - 1)};
  }
  // Changes with every Publish and Withdraw: a fetched slot directory of another one is out of
  // date.
  [[nodiscard]] uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

  // The newest epoch that this node was told of; goes out with every reply.
  [[nodiscard]] Epoch newest_epoch() const {
    return Epoch(newest_epoch_.load(std::memory_order_relaxed));
  }
  void set_newest_epoch(Epoch epoch) {
    newest_epoch_.store(epoch.value(), std::memory_order_relaxed);
  }

 private:
  static constexpr uint32_t kOffsetBits = 44;  // regions of up to 16 TiB
  static constexpr uint32_t kRegionBits = 64 - kOffsetBits;

  const TableVersion version_;
  const ModelIdentity identity_;
  const std::shared_ptr<const TableLayout> layout_;
  std::vector<std::atomic<const std::byte*>> rows_;  // [slots]
  // [slots], written before rows_: region << kOffsetBits | offset, for a slot may be published at a
  // new place while a directory is listed.
  std::vector<std::atomic<uint64_t>> places_;
  std::atomic<uint64_t> generation_{1};
  std::atomic<uint64_t> newest_epoch_{0};
};

}  // namespace engram
