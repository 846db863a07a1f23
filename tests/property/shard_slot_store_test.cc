// The slot store against a slow, obvious model, over random histories of assignments, loads,
// replacements, drops and time: what is served is what was assigned and loaded, and no two owners
// share a byte.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "shard_server/slot_store.h"
#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

constexpr Duration kPatience = milliseconds(100);

// Bytes [begin, end) of memory in somebody's hands.
struct Extent {
  const std::byte* begin;
  const std::byte* end;
};

// What a node should serve, kept the simple way.
struct ModelVersion {
  struct Left {
    Epoch epoch;
    MonotonicTime since;
  };
  std::map<uint32_t, SlotDigest> assigned;      // slot -> recorded digest
  std::map<uint32_t, const std::byte*> loaded;  // where the rows of a slot lie, served or withdrawn
  std::map<uint32_t, Left> left;                // loaded, assigned no longer, served on
  std::map<uint32_t, uint64_t> withdrawn;       // loaded, served no longer -> releases by then
  std::vector<EmptySlot> loading;
};

// Dropped, and served on while readers have sessions for it.
struct Retired {
  uint64_t number;
  std::shared_ptr<const ServedSlots> served;
  ModelVersion version;
};

struct History {
  History() : layout(test::SmallLayout(300)) {
    server.acknowledged = Epoch(0);
    server.reusable = 0;
  }

  // What the store's Reclaim does, told from outside.
  void Reclaimed() {
    for (auto& [number, version] : versions) {
      for (auto at = version.withdrawn.begin(); at != version.withdrawn.end();) {
        const bool gone = at->second <= server.reusable;
        if (gone) version.loaded.erase(at->first);
        at = gone ? version.withdrawn.erase(at) : std::next(at);
      }
      for (auto at = version.left.begin(); at != version.left.end();) {
        const bool over = IsOver(at->second);
        if (over) version.withdrawn[at->first] = server.releases.size();
        at = over ? version.left.erase(at) : std::next(at);
      }
    }
    for (auto at = retired.begin(); at != retired.end();) {
      const auto& left = at->version.left;
      const bool over = std::all_of(left.begin(), left.end(),
                                    [this](const auto& item) { return IsOver(item.second); });
      at = over ? End(at) : std::next(at);
    }
  }
  [[nodiscard]] bool IsOver(const ModelVersion::Left& left) const {
    return left.epoch <= server.acknowledged.load() || clock.Now() - left.since >= kPatience;
  }
  // A dropped version is served no longer.
  std::vector<Retired>::iterator End(std::vector<Retired>::iterator ended) {
    for (const auto& [slot, rows] : ended->version.loaded) {
      waiting.emplace_back(server.releases.size(), rows, slot);
    }
    return retired.erase(ended);
  }

  void Check(const SlotStore& store) const {
    std::vector<Extent> owned;
    for (const auto& [number, version] : versions) {
      CheckServed(*server.served.at(TableVersion(number)), version, &owned);
      for (const EmptySlot& slot : version.loading) {
        if (!version.loaded.contains(slot.slot.value()) ||
            version.loaded.at(slot.slot.value()) != slot.rows) {
          Own(slot.rows, slot.slot.value(), &owned);
        }
      }
      const TableVersion held(number);
      RC_ASSERT(store.ReadySlots(held).size() + store.EmptyCount(held) +
                    store.UnplacedCount(held) ==
                version.assigned.size());
    }
    for (const Retired& dropped : retired) CheckServed(*dropped.served, dropped.version, &owned);
    for (const auto& [releases, rows, slot] : waiting) {
      if (releases > server.reusable) Own(rows, slot, &owned);
    }
    std::sort(owned.begin(), owned.end(),
              [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (size_t i = 1; i < owned.size(); ++i) RC_ASSERT(owned[i - 1].end <= owned[i].begin);
    const SlotStoreFigures figures = store.figures();
    RC_ASSERT(figures.region_bytes <= figures.memory_bytes_max);
    RC_ASSERT(figures.free_bytes + figures.held_bytes + figures.leaving_bytes +
                  figures.waiting_bytes + figures.replacing_bytes <=
              figures.region_bytes);
  }

  void CheckServed(const ServedSlots& served, const ModelVersion& version,
                   std::vector<Extent>* owned) const {
    for (uint32_t slot = 0; slot < layout->slot_count(); ++slot) {
      const auto loaded = version.loaded.find(slot);
      const bool wanted = loaded != version.loaded.end() && !version.withdrawn.contains(slot);
      RC_ASSERT(served.Rows(SlotIndex(slot)) == (wanted ? loaded->second : nullptr));
    }
    // Rows that a reader may still look at, and rows that a load writes.
    for (const auto& [slot, rows] : version.loaded) Own(rows, slot, owned);
  }
  void Own(const std::byte* rows, uint32_t slot, std::vector<Extent>* owned) const {
    owned->push_back({rows, rows + layout->slot_bytes(SlotIndex(slot))});
  }

  mutable test::RecordingRowServer server;
  ManualClock clock;
  std::shared_ptr<const TableLayout> layout;
  uint64_t epoch = 0;  // newest, of every version
  std::map<uint64_t, ModelVersion> versions;
  std::vector<Retired> retired;
  // Memory of dropped versions and replaced slots that a reader may still look at, and the releases
  // by then.
  std::vector<std::tuple<uint64_t, const std::byte*, uint32_t>> waiting;
};

void Assign(History* history, SlotStore* store) {
  const uint64_t number = *rc::gen::inRange<uint64_t>(1, 4);
  const TableVersion version(number);
  if (!store->Has(version)) {
    RC_ASSERT(store->AddVersion(version, test::SmallIdentity(), history->layout).ok());
    history->versions[number] = {};
    const auto retired =
        std::find_if(history->retired.begin(), history->retired.end(),
                     [&](const Retired& dropped) { return dropped.number == number; });
    if (retired != history->retired.end()) history->End(retired);
  }
  const uint32_t first = *rc::gen::inRange(0u, history->layout->slot_count());
  const uint32_t end = *rc::gen::inRange(first, history->layout->slot_count() + 1);
  const auto slots = test::SlotList(first, end, *rc::gen::inRange(1u, 4u));
  store->SetNewestEpoch(version, Epoch(++history->epoch));
  const Status status = store->SetSlots(version, slots);
  history->Reclaimed();
  if (!status.ok()) {
    RC_ASSERT(status.code() == StatusCode::kResourceExhausted);
    return;
  }
  ModelVersion& model = history->versions[number];
  const auto before = std::exchange(model.assigned, {});
  for (const AssignedSlot& slot : slots) {
    model.assigned[slot.slot.value()] = slot.digest;
    model.left.erase(slot.slot.value());
    model.withdrawn.erase(slot.slot.value());
  }
  for (const auto& [slot, digest] : before) {
    if (model.assigned.contains(slot) || !model.loaded.contains(slot)) continue;
    model.left[slot] = {Epoch(history->epoch), history->clock.Now()};
  }
}

void StartLoad(History* history, SlotStore* store) {
  for (auto& [number, version] : history->versions) {
    const TableVersion held(number);
    if (!version.loading.empty() || store->EmptyCount(held) + store->ReplacingCount(held) == 0) {
      continue;
    }
    version.loading = test::PinIdle(store, held);
    return;
  }
}

void StartReplacing(History* history, SlotStore* store) {
  const TableVersion version(*rc::gen::inRange<uint64_t>(1, 4));
  const SlotIndex slot(*rc::gen::inRange(0u, history->layout->slot_count()));
  const bool ready = store->ReadyRows(version, slot) != nullptr;
  const uint64_t before = store->ReplacingCount(version);
  const Status status = store->StartReplacing(version, slot);
  RC_ASSERT((status.code() == StatusCode::kNotFound) == !ready);
  RC_ASSERT(store->ReplacingCount(version) <= before + (status.ok() ? 1 : 0));
}

void EndLoad(History* history, SlotStore* store) {
  for (auto& [number, version] : history->versions) {
    if (version.loading.empty()) continue;
    const size_t good = *rc::gen::inRange<size_t>(0, version.loading.size() + 1);
    for (size_t i = 0; i < good; ++i) {
      const EmptySlot& slot = version.loading[i];
      const uint32_t index = slot.slot.value();
      const bool replaces = store->IsReplacement(TableVersion(number), slot);
      RC_ASSERT(store->Publish(TableVersion(number), slot.slot, slot.rows, 1 + index).ok());
      const auto served = history->server.served.at(TableVersion(number));
      if (replaces) {
        RC_ASSERT(served->Rows(slot.slot) == slot.rows);
        history->waiting.emplace_back(history->server.releases.size(), version.loaded.at(index),
                                      index);
      }
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
  Retired dropped{victim->first, history->server.served.at(TableVersion(victim->first)),
                  std::move(victim->second)};
  history->versions.erase(victim);
  for (const auto& [slot, rows] : dropped.version.loaded) {
    if (dropped.version.left.contains(slot) || dropped.version.withdrawn.contains(slot)) continue;
    dropped.version.left[slot] = {Epoch(kNeverRead), history->clock.Now()};
  }
  store->DropVersion(TableVersion(dropped.number));
  history->retired.push_back(std::move(dropped));
  history->Reclaimed();
}

RC_GTEST_PROP(SlotStoreProperty, ServesWhatWasAssignedAndLoadedAndNeverSharesMemory, ()) {
  History history;
  SlotStore::Options options;
  options.memory_bytes_max = history.layout->total_bytes() * *rc::gen::inRange<uint64_t>(1, 8) / 2;
  options.region_bytes_max = *rc::gen::element<uint64_t>(8192, 1 << 20);
  options.release_patience = kPatience;
  SlotStore store(&history.server, &history.clock, options);
  const int steps = *rc::gen::inRange(1, 80);
  for (int i = 0; i < steps; ++i) {
    switch (*rc::gen::inRange(0, 10)) {
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
      case 5:
        history.server.acknowledged = Epoch(*rc::gen::inRange<uint64_t>(0, history.epoch + 1));
        break;
      case 6:
        history.server.reusable = history.server.releases.size();
        break;
      case 7:
      case 8:
        StartReplacing(&history, &store);
        break;
      default:
        history.clock.Advance(milliseconds(*rc::gen::inRange(1, 150)));
        (void)store.Reclaim();
        history.Reclaimed();
    }
    history.Check(store);
  }
}

}  // namespace
}  // namespace engram
