// The slot store against a slow, obvious model, over random histories of assignments, loads, drops
// and time: what is served is what was assigned and loaded, and no two owners share a byte.
#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "shard_server/slot_store.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

constexpr Duration kLease = milliseconds(100);

// Bytes [begin, end) of memory in somebody's hands.
struct Extent {
  const std::byte* begin;
  const std::byte* end;
};

// What a node should serve, kept the simple way.
struct ModelVersion {
  std::map<uint32_t, SlotDigest> assigned;      // slot -> recorded digest
  std::map<uint32_t, const std::byte*> loaded;  // ever published: where its rows lie for good
  std::vector<EmptySlot> loading;
};

struct History {
  History() : layout(test::SmallLayout(300)) {}

  void Check(const SlotStore& store) const {
    std::vector<Extent> owned;
    for (const auto& [number, version] : versions) {
      const auto served = server.served.at(TableVersion(number));
      for (uint32_t slot = 0; slot < layout->slot_count(); ++slot) {
        const auto loaded = version.loaded.find(slot);
        const bool wanted = version.assigned.contains(slot) && loaded != version.loaded.end();
        RC_ASSERT(served->Rows(SlotIndex(slot)) == (wanted ? loaded->second : nullptr));
      }
      // Rows that a mapped reader may still look at, and rows that a load writes.
      for (const auto& [slot, rows] : version.loaded) Own(rows, slot, &owned);
      for (const EmptySlot& slot : version.loading) {
        if (!version.loaded.contains(slot.slot.value()) ||
            version.loaded.at(slot.slot.value()) != slot.rows) {
          Own(slot.rows, slot.slot.value(), &owned);
        }
      }
    }
    for (const auto& [until, rows, slot] : leased) {
      if (until > clock.Now()) Own(rows, slot, &owned);
    }
    std::sort(owned.begin(), owned.end(),
              [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < owned.size(); ++i) RC_ASSERT(owned[i - 1].end <= owned[i].begin);
    const SlotStoreFigures figures = store.figures();
    RC_ASSERT(figures.region_bytes <= figures.memory_bytes_max);
    RC_ASSERT(figures.free_bytes + figures.held_bytes + figures.withdrawn_bytes +
                  figures.waiting_bytes <=
              figures.region_bytes);
  }

  void Own(const std::byte* rows, uint32_t slot, std::vector<Extent>* owned) const {
    owned->push_back({rows, rows + layout->slot_bytes(SlotIndex(slot))});
  }

  mutable test::RecordingRowServer server;
  ManualClock clock;
  std::shared_ptr<const TableLayout> layout;
  std::map<uint64_t, ModelVersion> versions;
  // Memory of dropped versions that a lease may still point at.
  std::vector<std::tuple<MonotonicTime, const std::byte*, uint32_t>> leased;
};

void Assign(History* history, SlotStore* store) {
  const uint64_t number = *rc::gen::inRange<uint64_t>(1, 4);
  const TableVersion version(number);
  if (!store->Has(version)) {
    RC_ASSERT(store->AddVersion(version, test::SmallIdentity(), history->layout).ok());
    history->versions[number] = {};
  }
  const uint32_t first = *rc::gen::inRange(0u, history->layout->slot_count());
  const uint32_t end = *rc::gen::inRange(first, history->layout->slot_count() + 1);
  const auto slots = test::SlotList(first, end, *rc::gen::inRange(1u, 4u));
  const Status status = store->SetSlots(version, slots);
  if (!status.ok()) {
    RC_ASSERT(status.code() == StatusCode::kResourceExhausted);
    return;
  }
  ModelVersion& model = history->versions[number];
  model.assigned.clear();
  for (const AssignedSlot& slot : slots) model.assigned[slot.slot.value()] = slot.digest;
}

void StartLoad(History* history, SlotStore* store) {
  for (auto& [number, version] : history->versions) {
    if (!version.loading.empty() || store->EmptyCount(TableVersion(number)) == 0) continue;
    version.loading = test::PinIdle(store, TableVersion(number));
    return;
  }
}

void EndLoad(History* history, SlotStore* store) {
  for (auto& [number, version] : history->versions) {
    if (version.loading.empty()) continue;
    const size_t good = *rc::gen::inRange<size_t>(0, version.loading.size() + 1);
    for (size_t i = 0; i < good; ++i) {
      const EmptySlot& slot = version.loading[i];
      const uint32_t index = slot.slot.value();
      RC_ASSERT(store->Publish(TableVersion(number), slot.slot, slot.rows, 1 + index).ok());
      const auto served = history->server.served.at(TableVersion(number));
      if (served->Rows(slot.slot) == slot.rows) version.loaded[index] = slot.rows;
    }
    store->Unpin(version.loading);
    version.loading.clear();
    return;
  }
}

void DropOne(History* history, SlotStore* store) {
  if (history->versions.empty()) return;
  const auto victim = history->versions.begin();
  if (!victim->second.loading.empty()) return;
  for (const auto& [slot, rows] : victim->second.loaded) {
    history->leased.emplace_back(history->clock.Now() + kLease, rows, slot);
  }
  store->DropVersion(TableVersion(victim->first));
  history->versions.erase(victim);
}

RC_GTEST_PROP(SlotStoreProperty, ServesWhatWasAssignedAndLoadedAndNeverSharesMemory, ()) {
  History history;
  SlotStore::Options options;
  options.memory_bytes_max = history.layout->total_bytes() * *rc::gen::inRange<uint64_t>(1, 8) / 2;
  options.region_bytes_max = *rc::gen::element<uint64_t>(8192, 1 << 20);
  options.lease = kLease;
  SlotStore store(&history.server, &history.clock, options);
  const int steps = *rc::gen::inRange(1, 60);
  for (int i = 0; i < steps; ++i) {
    switch (*rc::gen::inRange(0, 6)) {
      case 0:
      case 1:
        Assign(&history, &store);
        break;
      case 2:
        StartLoad(&history, &store);
        break;
      case 3:
        EndLoad(&history, &store);
        break;
      case 4:
        DropOne(&history, &store);
        break;
      default:
        history.clock.Advance(milliseconds(*rc::gen::inRange(1, 150)));
        store.Reclaim();
    }
    history.Check(store);
  }
}

}  // namespace
}  // namespace engram
