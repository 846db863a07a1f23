// A row server that only lends memory and remembers what it was told, and a small version.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engram/table/table_layout.h"
#include "engram/transport/row_server.h"
#include "shard_server/slot_store.h"

namespace engram::test {

// Thread-safe.
class RecordingRowServer final : public RowServer {
 public:
  Result<Region> AllocateRegion(uint64_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (bytes > system_bytes) {
      return Error(StatusCode::kResourceExhausted,
                   std::to_string(bytes) + " bytes: the system has no more");
    }
    system_bytes -= bytes;
    region_sizes.push_back(bytes);
    memory_.push_back(std::make_unique<std::byte[]>(bytes));
    return Region{static_cast<uint32_t>(memory_.size() - 1), {memory_.back().get(), bytes}, false};
  }
  void Serve(std::shared_ptr<const ServedSlots> slots) override {
    const std::lock_guard lock(mutex_);
    served[slots->version()] = std::move(slots);
  }
  void Drop(TableVersion version) override {
    const std::lock_guard lock(mutex_);
    served.erase(version);
  }
  bool AllAcknowledged(TableVersion /*version*/, Epoch epoch) override {
    return epoch <= acknowledged;
  }
  MemoryRelease StartRelease(TableVersion version, Epoch epoch, uint64_t generation) override {
    const std::lock_guard lock(mutex_);
    releases.push_back({version, epoch, generation, 0, releases.size() + 1});
    return releases.back();
  }
  bool MayReuse(const MemoryRelease& release) override { return release.sweep <= reusable; }
  std::string address() const override { return "recorded:1"; }
  RowServerStats stats() const override { return {}; }

  std::shared_ptr<const ServedSlots> Served(uint64_t version) {
    const std::lock_guard lock(mutex_);
    const auto found = served.find(TableVersion(version));
    return found == served.end() ? nullptr : found->second;
  }

  uint64_t system_bytes = std::numeric_limits<uint64_t>::max();
  std::vector<uint64_t> region_sizes;
  std::map<TableVersion, std::shared_ptr<const ServedSlots>> served;
  std::vector<MemoryRelease> releases;  // started
  // What readers are said to have done: by default all, at once.
  std::atomic<Epoch> acknowledged{Epoch(~uint64_t{0})};
  std::atomic<uint64_t> reusable{~uint64_t{0}};  // of `releases`, so many

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

inline TableSpec SmallSpec(int64_t column_rows = 2000) {
  TableSpec spec;
  spec.hash.variant = Variant::kV41;
  spec.hash.max_ngram_size = 3;
  spec.hash.head_count = 2;
  spec.hash.base_sizes = {column_rows, column_rows};
  spec.hash.layer_ids = {1, 14};
  spec.hash.compressed_vocab_size = 1000;
  spec.hash.pad_id = 2;
  spec.row_format = RowFormat::kF8E4M3ScaleE8M0;
  spec.row_values = 64;
  return spec;
}

inline std::shared_ptr<const TableLayout> SmallLayout(int64_t column_rows = 2000) {
  return std::make_shared<const TableLayout>(TableLayout::Create(SmallSpec(column_rows)).value());
}

inline ModelIdentity SmallIdentity() {
  ModelIdentity identity{};
  identity.fill(0x5a);
  return identity;
}

// The slots that a load may be given, pinned.
inline std::vector<EmptySlot> PinIdle(SlotStore* store, TableVersion version) {
  std::vector<EmptySlot> slots = store->IdleSlots(version);
  store->Pin(slots);
  return slots;
}

// Slots first, first + step, ... below end, with one recorded digest for all.
inline std::vector<AssignedSlot> SlotList(uint32_t first, uint32_t end, uint32_t step = 1,
                                          SlotDigest digest = 0) {
  std::vector<AssignedSlot> slots;
  for (uint32_t slot = first; slot < end; slot += step) slots.push_back({SlotIndex(slot), digest});
  return slots;
}

}  // namespace engram::test
