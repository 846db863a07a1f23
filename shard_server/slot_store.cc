#include "shard_server/slot_store.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engram/base/check.h"
#include "shard_server/byte_text.h"

namespace engram {

SlotStore::SlotStore(RowServer* server, const Clock* clock, const Options& options)
    : server_(server),
      clock_(clock),
      release_patience_(options.release_patience),
      arena_(server, {options.memory_bytes_max, options.region_bytes_max}) {}

Status SlotStore::AddVersion(TableVersion version, const ModelIdentity& identity,
                             std::shared_ptr<const TableLayout> layout) {
  if (Has(version)) {
    return {StatusCode::kAlreadyExists,
            "version " + std::to_string(version.value()) + " is held already"};
  }
  if (const auto retired = versions_.find(version); retired != versions_.end()) EndVersion(retired);
  Version added;
  added.served = std::make_shared<ServedSlots>(version, identity, layout);
  added.slots.resize(layout->slot_count());
  added.counts[static_cast<size_t>(SlotState::kNone)] = layout->slot_count();
  added.bytes[static_cast<size_t>(SlotState::kNone)] = layout->total_bytes();
  added.layout = std::move(layout);
  server_->Serve(added.served);
  versions_.emplace(version, std::move(added));
  return {};
}

void SlotStore::SetState(Version& version, uint32_t slot, SlotState state) {
  Slot& entry = version.slots[slot];
  const uint64_t bytes = version.layout->slot_bytes(SlotIndex(slot));
  version.bytes[static_cast<size_t>(entry.state)] -= bytes;
  --version.counts[static_cast<size_t>(entry.state)];
  entry.state = state;
  version.bytes[static_cast<size_t>(state)] += bytes;
  ++version.counts[static_cast<size_t>(state)];
}

void SlotStore::Serve(Version& version, uint32_t slot) {
  const ArenaPiece& piece = version.slots[slot].piece;
  SetState(version, slot, SlotState::kReady);
  version.served->Publish(SlotIndex(slot), piece.data, piece.place);
}

Status SlotStore::StartReplacing(TableVersion version, SlotIndex slot) {
  if (ReadyRows(version, slot) == nullptr) {
    return {StatusCode::kNotFound, "slot " + std::to_string(slot.value()) + " of version " +
                                       std::to_string(version.value()) + " is not ready here"};
  }
  Version& held = versions_.at(version);
  Slot& entry = held.slots[slot.value()];
  if (entry.replacement.data != nullptr) return {};
  const uint64_t bytes = held.layout->slot_bytes(slot);
  auto pieces = arena_.Take({&bytes, 1});
  if (!pieces.has_value()) return pieces.error();
  entry.replacement = pieces->front();
  ++held.replacing;
  held.replacing_bytes += bytes;
  return {};
}

void SlotStore::LetReplacementGo(Version& version, uint32_t slot) {
  Slot& entry = version.slots[slot];
  if (entry.replacement.data == nullptr) return;
  LetGo(entry.replacement);  // never served, so no reader can be in it
  --version.replacing;
  version.replacing_bytes -= entry.replacement.bytes;
  entry.replacement = {};
}

void SlotStore::Replace(TableVersion number, Version& version, uint32_t slot) {
  Slot& entry = version.slots[slot];
  Waiting waiting;
  waiting.pieces.push_back(entry.piece);
  entry.piece = entry.replacement;
  entry.replacement = {};
  --version.replacing;
  version.replacing_bytes -= entry.piece.bytes;
  version.served->Publish(SlotIndex(slot), entry.piece.data, entry.piece.place);
  // After it: whoever is given a slot directory from here on is given the new place. No map
  // changed, so there is no epoch to wait for.
  waiting.release = server_->StartRelease(number, Epoch(0), version.served->generation());
  waiting_.push_back(std::move(waiting));
}

Status SlotStore::SetSlots(TableVersion version, std::span<const AssignedSlot> slots) {
  const auto found = versions_.find(version);
  if (found == versions_.end() || found->second.retired) {
    return {StatusCode::kNotFound, "version " + std::to_string(version.value()) + " is not held"};
  }
  Version& held = found->second;
  const auto slot_count = static_cast<uint32_t>(held.slots.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    const uint32_t slot = slots[i].slot.value();
    if (slot >= slot_count || (i > 0 && slots[i - 1].slot >= slots[i].slot)) {
      return {StatusCode::kInvalidArgument,
              "slot " + std::to_string(slot) + " in the assignment of version " +
                  std::to_string(version.value()) + " is out of range (" +
                  std::to_string(slot_count) + " slots) or not ascending"};
    }
  }
  Reclaim();
  // Memory first: the only step that can fail.
  std::vector<uint64_t> sizes;
  std::vector<uint32_t> needing;
  for (const AssignedSlot& wanted : slots) {
    const uint32_t slot = wanted.slot.value();
    if (held.slots[slot].piece.data != nullptr) continue;
    needing.push_back(slot);
    sizes.push_back(held.layout->slot_bytes(wanted.slot));
  }
  auto pieces = arena_.Take(sizes);
  if (pieces.has_value()) {
    for (size_t i = 0; i < needing.size(); ++i) held.slots[needing[i]].piece = (*pieces)[i];
  } else if (const Status room = CheckRoom(version, held, slots); !room.ok()) {
    return pieces.error().WithContext(room.message());
  }

  Departure departure{held.served->newest_epoch(), clock_->Now(), {}, {}};
  const uint64_t number = ++departures_;
  size_t next = 0;
  for (uint32_t slot = 0; slot < slot_count; ++slot) {
    if (next < slots.size() && slots[next].slot.value() == slot) {
      Assign(held, slot, slots[next].digest);
      ++next;
    } else if (held.slots[slot].assigned) {
      Unassign(held, slot, &departure, number);
    }
  }
  if (!departure.slots.empty()) held.departures.emplace(number, std::move(departure));
  PlaceUnplaced(held);
  return {};
}

Status SlotStore::CheckRoom(TableVersion number, const Version& version,
                            std::span<const AssignedSlot> slots) const {
  const std::string name =
      "version " + std::to_string(number.value()) + ": no room for all of its slots";
  uint64_t assigned_bytes = 0;
  uint64_t kept_bytes = 0;
  for (const AssignedSlot& wanted : slots) {
    const uint64_t bytes = version.layout->slot_bytes(wanted.slot);
    assigned_bytes += bytes;
    if (version.slots[wanted.slot.value()].piece.data != nullptr) kept_bytes += bytes;
  }
  uint64_t placed_bytes = 0;  // of this version, whatever becomes of it
  for (const Slot& slot : version.slots) placed_bytes += slot.piece.bytes;
  uint64_t all_bytes = assigned_bytes;
  for (const auto& [other, held] : versions_) {
    if (other != number) all_bytes += HeldBytes(other);
  }
  if (all_bytes > arena_.memory_bytes_max()) return {StatusCode::kResourceExhausted, name};
  // What leaves by this assignment, or is leaving already; a slot that comes back does not.
  const uint64_t others = ReleasingBytes() - Bytes(version, SlotState::kLeaving) -
                          Bytes(version, SlotState::kWithdrawn);
  uint64_t replacing_bytes = 0;  // once each: the replacement's own memory or the replaced one's
  for (const auto& [other, held] : versions_) replacing_bytes += held.replacing_bytes;
  if (others + replacing_bytes + placed_bytes - kept_bytes > 0) return {};
  return {StatusCode::kResourceExhausted, name};
}

void SlotStore::Assign(Version& version, uint32_t slot, SlotDigest recorded) {
  Slot& entry = version.slots[slot];
  entry.assigned = true;
  entry.recorded = recorded;
  const bool loaded = entry.digest != 0;
  const bool differs = loaded && recorded != 0 && recorded != entry.digest;
  switch (entry.state) {
    case SlotState::kNone:
    case SlotState::kUnplaced:
      SetState(version, slot,
               entry.piece.data != nullptr ? SlotState::kEmpty : SlotState::kUnplaced);
      break;
    case SlotState::kWithdrawn:
      entry.departure = 0;
      if (differs) {
        SetState(version, slot, SlotState::kRefused);
      } else {
        Serve(version, slot);
      }
      break;
    case SlotState::kLeaving:
      entry.departure = 0;
      SetState(version, slot, SlotState::kReady);
      [[fallthrough]];
    case SlotState::kReady:
      if (differs) {
        LetReplacementGo(version, slot);
        version.served->Withdraw(SlotIndex(slot));
        SetState(version, slot, SlotState::kRefused);
      }
      break;
    case SlotState::kRefused:
      // The record was corrected: these rows are the right ones after all.
      if (loaded && recorded == entry.digest) Serve(version, slot);
      break;
    case SlotState::kEmpty:
      break;
  }
}

void SlotStore::Unassign(Version& version, uint32_t slot, Departure* departure, uint64_t number) {
  Slot& entry = version.slots[slot];
  entry.assigned = false;
  switch (entry.state) {
    case SlotState::kReady:
    case SlotState::kRefused:  // it was served once, perhaps
      LetReplacementGo(version, slot);
      SetState(version, slot,
               entry.state == SlotState::kReady ? SlotState::kLeaving : SlotState::kWithdrawn);
      entry.departure = number;
      departure->slots.push_back(slot);
      break;
    case SlotState::kEmpty:
      LetGo(entry.piece);  // never served, so no reader can be in it
      entry.piece = {};
      SetState(version, slot, SlotState::kNone);
      break;
    case SlotState::kUnplaced:
      SetState(version, slot, SlotState::kNone);
      break;
    case SlotState::kLeaving:
    case SlotState::kWithdrawn:
    case SlotState::kNone:
      break;
  }
}

std::vector<EmptySlot> SlotStore::IdleSlots(TableVersion version) const {
  std::vector<EmptySlot> idle;
  const auto found = versions_.find(version);
  if (found == versions_.end()) return idle;
  const Version& held = found->second;
  if (Count(held, SlotState::kEmpty) == 0 && held.replacing == 0) return idle;
  for (uint32_t slot = 0; slot < held.slots.size(); ++slot) {
    const Slot& entry = held.slots[slot];
    const bool empty = entry.state == SlotState::kEmpty;
    const ArenaPiece& piece = empty ? entry.piece : entry.replacement;
    if (piece.data == nullptr || pins_.contains(piece.data)) continue;
    // A replacement holds what the slot held, recorded or not.
    idle.push_back({SlotIndex(slot), piece.data, empty ? entry.recorded : entry.digest});
  }
  return idle;
}

bool SlotStore::IsReplacement(TableVersion version, const EmptySlot& slot) const {
  const auto found = versions_.find(version);
  if (found == versions_.end() || slot.rows == nullptr) return false;
  return found->second.slots[slot.slot.value()].replacement.data == slot.rows;
}

bool SlotStore::IsWanted(TableVersion version, const EmptySlot& slot) const {
  const auto found = versions_.find(version);
  if (found == versions_.end()) return false;
  const Slot& entry = found->second.slots[slot.slot.value()];
  return entry.assigned && (entry.piece.data == slot.rows || entry.replacement.data == slot.rows);
}

void SlotStore::Pin(std::span<const EmptySlot> slots) {
  for (const EmptySlot& slot : slots) ++pins_[slot.rows].count;
}

void SlotStore::Unpin(std::span<const EmptySlot> slots) {
  for (const EmptySlot& slot : slots) UnpinRows(slot.rows);
}

void SlotStore::PinRows(const std::byte* rows) { ++pins_[rows].count; }

void SlotStore::UnpinRows(const std::byte* rows) {
  const auto found = pins_.find(rows);
  ENGRAM_CHECK(found != pins_.end());
  if (--found->second.count > 0) return;
  const ArenaPiece let_go = found->second.let_go;
  pins_.erase(found);
  if (let_go.data != nullptr) arena_.GiveBack(let_go);
}

void SlotStore::LetGo(const ArenaPiece& piece) {
  const auto pinned = pins_.find(piece.data);
  if (pinned == pins_.end()) {
    arena_.GiveBack(piece);
  } else {
    pinned->second.let_go = piece;
  }
}

Status SlotStore::Publish(TableVersion version, SlotIndex slot, const std::byte* rows,
                          SlotDigest digest) {
  ENGRAM_CHECK(digest != 0);
  const auto found = versions_.find(version);
  if (found == versions_.end()) return {};
  Version& held = found->second;
  Slot& entry = held.slots[slot.value()];
  if (rows != nullptr && entry.replacement.data == rows) {
    if (digest == entry.digest) {
      Replace(version, held, slot.value());
      return {};
    }
    LetReplacementGo(held, slot.value());
    return {StatusCode::kCorrupt, "slot " + std::to_string(slot.value()) + " of version " +
                                      std::to_string(version.value()) +
                                      ": what should replace it has another digest"};
  }
  if (entry.state != SlotState::kEmpty || entry.piece.data != rows) return {};
  entry.digest = digest;
  if (entry.recorded != 0 && entry.recorded != digest) {
    SetState(held, slot.value(), SlotState::kRefused);
    return {StatusCode::kCorrupt, "slot " + std::to_string(slot.value()) + " of version " +
                                      std::to_string(version.value()) +
                                      ": another digest was recorded while it loaded"};
  }
  Serve(held, slot.value());
  return {};
}

void SlotStore::SetNewestEpoch(TableVersion version, Epoch epoch) {
  const auto found = versions_.find(version);
  if (found == versions_.end()) return;
  ServedSlots& served = *found->second.served;
  served.set_newest_epoch(std::max(served.newest_epoch(), epoch));
}

Epoch SlotStore::NewestEpoch(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? Epoch() : found->second.served->newest_epoch();
}

void SlotStore::DropVersion(TableVersion version) {
  const auto found = versions_.find(version);
  if (found == versions_.end() || found->second.retired) return;
  Version& held = found->second;
  held.retired = true;
  // No map takes its readers elsewhere: they end their sessions.
  Departure departure{Epoch(kNeverRead), clock_->Now(), {}, {}};
  const uint64_t number = ++departures_;
  for (uint32_t slot = 0; slot < held.slots.size(); ++slot) {
    if (held.slots[slot].assigned) Unassign(held, slot, &departure, number);
  }
  if (!departure.slots.empty()) held.departures.emplace(number, std::move(departure));
  Reclaim();
}

SlotStore::Versions::iterator SlotStore::EndVersion(Versions::iterator ended) {
  const TableVersion number = ended->first;
  Version& held = ended->second;
  server_->Drop(number);
  Waiting waiting;
  waiting.readers = held.served;
  // No reader of it is given a lease any more; those that run must end.
  waiting.release = server_->StartRelease(number, Epoch(kNeverRead), kNeverRead);
  for (const Slot& slot : held.slots) {
    if (slot.piece.data != nullptr) waiting.pieces.push_back(slot.piece);
  }
  waiting_.push_back(std::move(waiting));
  return versions_.erase(ended);
}

bool SlotStore::Reclaim() {
  bool changed = false;
  for (auto held = versions_.begin(); held != versions_.end();) {
    auto& [number, version] = *held;
    if (version.retired) {
      const bool ends = std::all_of(
          version.departures.begin(), version.departures.end(), [&, n = number](const auto& item) {
            return item.second.release.has_value() || MayWithdraw(n, item.second);
          });
      held = ends ? EndVersion(held) : std::next(held);
      changed |= ends;
      continue;
    }
    for (auto at = version.departures.begin(); at != version.departures.end();) {
      changed |= AdvanceDeparture(number, version, at->first, at->second);
      at = at->second.slots.empty() ? version.departures.erase(at) : std::next(at);
    }
    ++held;
  }
  changed |= std::erase_if(waiting_, [&](const Waiting& waiting) {
               if (!waiting.readers.expired() || !server_->MayReuse(waiting.release)) return false;
               for (const ArenaPiece& piece : waiting.pieces) LetGo(piece);
               return true;
             }) > 0;
  for (auto& [number, version] : versions_) changed |= PlaceUnplaced(version);
  return changed;
}

bool SlotStore::MayWithdraw(TableVersion number, const Departure& departure) const {
  return clock_->Now() - departure.since >= release_patience_ ||
         server_->AllAcknowledged(number, departure.epoch);
}

// A departure that is over has no slots.
bool SlotStore::AdvanceDeparture(TableVersion number, Version& version, uint64_t departure_number,
                                 Departure& departure) {
  // Those that came back are somebody else's.
  std::erase_if(departure.slots,
                [&](uint32_t slot) { return version.slots[slot].departure != departure_number; });
  if (departure.slots.empty()) return false;
  bool changed = false;
  if (!departure.release.has_value()) {
    if (!MayWithdraw(number, departure)) return false;
    Withdraw(number, version, departure);
    changed = true;
  }
  if (!server_->MayReuse(*departure.release)) return changed;
  for (const uint32_t slot : departure.slots) {
    Slot& entry = version.slots[slot];
    ENGRAM_CHECK(entry.state == SlotState::kWithdrawn);
    LetGo(entry.piece);
    SetState(version, slot, SlotState::kNone);
    entry = {};
  }
  departure.slots.clear();
  return true;
}

void SlotStore::Withdraw(TableVersion number, Version& version, Departure& departure) {
  for (const uint32_t slot : departure.slots) {
    if (version.slots[slot].state != SlotState::kLeaving) continue;
    version.served->Withdraw(SlotIndex(slot));
    SetState(version, slot, SlotState::kWithdrawn);
  }
  // After the withdrawal: whoever is given a slot directory from here on is not given these places.
  departure.release = server_->StartRelease(number, departure.epoch, version.served->generation());
}

bool SlotStore::PlaceUnplaced(Version& version) {
  if (Count(version, SlotState::kUnplaced) == 0) return false;
  std::vector<uint32_t> unplaced;
  std::vector<uint64_t> sizes;
  for (uint32_t slot = 0; slot < version.slots.size(); ++slot) {
    if (version.slots[slot].state != SlotState::kUnplaced) continue;
    unplaced.push_back(slot);
    sizes.push_back(version.layout->slot_bytes(SlotIndex(slot)));
  }
  // As many at once as there is memory for, so that regions stay few.
  size_t placed = 0;
  for (size_t count = unplaced.size(); count > 0;) {
    const auto pieces = arena_.Take(std::span(sizes).subspan(placed, count));
    if (!pieces.has_value()) {
      count /= 2;
      continue;
    }
    for (size_t i = 0; i < count; ++i) {
      version.slots[unplaced[placed + i]].piece = (*pieces)[i];
      SetState(version, unplaced[placed + i], SlotState::kEmpty);
    }
    placed += count;
    count = std::min(count, unplaced.size() - placed);
  }
  return placed > 0;
}

bool SlotStore::NeedsReclaim() const {
  if (!waiting_.empty()) return true;
  return std::any_of(versions_.begin(), versions_.end(), [](const auto& entry) {
    return !entry.second.departures.empty() || Count(entry.second, SlotState::kUnplaced) > 0;
  });
}

uint64_t SlotStore::ReleasingBytes() const {
  uint64_t bytes = 0;
  for (const auto& [version, held] : versions_) {
    bytes += Bytes(held, SlotState::kLeaving) + Bytes(held, SlotState::kWithdrawn);
  }
  for (const Waiting& waiting : waiting_) {
    for (const ArenaPiece& piece : waiting.pieces) bytes += piece.bytes;
  }
  for (const auto& [rows, pinned] : pins_) bytes += pinned.let_go.bytes;
  return bytes;
}

std::shared_ptr<const TableLayout> SlotStore::layout(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? nullptr : found->second.layout;
}

std::vector<AssignedSlot> SlotStore::ReadySlots(TableVersion version) const {
  std::vector<AssignedSlot> ready;
  const auto found = versions_.find(version);
  if (found == versions_.end()) return ready;
  const std::vector<Slot>& slots = found->second.slots;
  ready.reserve(found->second.counts[static_cast<size_t>(SlotState::kReady)]);
  for (uint32_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot].state == SlotState::kReady)
      ready.push_back({SlotIndex(slot), slots[slot].digest});
  }
  return ready;
}

const std::byte* SlotStore::ReadyRows(TableVersion version, SlotIndex slot) const {
  const auto found = versions_.find(version);
  if (found == versions_.end() || slot.value() >= found->second.slots.size()) return nullptr;
  const Slot& entry = found->second.slots[slot.value()];
  return entry.state == SlotState::kReady ? entry.piece.data : nullptr;
}

std::optional<SlotIndex> SlotStore::NextReady(TableVersion version, SlotIndex from) const {
  const auto found = versions_.find(version);
  if (found == versions_.end()) return std::nullopt;
  const std::vector<Slot>& slots = found->second.slots;
  for (uint32_t slot = from.value(); slot < slots.size(); ++slot) {
    if (slots[slot].state == SlotState::kReady) return SlotIndex(slot);
  }
  return std::nullopt;
}

std::vector<SlotIndex> SlotStore::RefusedSlots(TableVersion version) const {
  std::vector<SlotIndex> refused;
  const auto found = versions_.find(version);
  if (found == versions_.end()) return refused;
  if (found->second.counts[static_cast<size_t>(SlotState::kRefused)] == 0) return refused;
  const std::vector<Slot>& slots = found->second.slots;
  for (uint32_t slot = 0; slot < slots.size(); ++slot) {
    if (slots[slot].state == SlotState::kRefused) refused.push_back(SlotIndex(slot));
  }
  return refused;
}

uint64_t SlotStore::EmptyCount(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? 0 : Count(found->second, SlotState::kEmpty);
}

uint64_t SlotStore::UnplacedCount(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? 0 : Count(found->second, SlotState::kUnplaced);
}

uint64_t SlotStore::ReplacingCount(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? 0 : found->second.replacing;
}

uint64_t SlotStore::HeldBytes(TableVersion version) const {
  const auto found = versions_.find(version);
  if (found == versions_.end()) return 0;
  const Version& held = found->second;
  return Bytes(held, SlotState::kUnplaced) + Bytes(held, SlotState::kEmpty) +
         Bytes(held, SlotState::kReady) + Bytes(held, SlotState::kRefused);
}

uint64_t SlotStore::ReadyBytes(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? 0 : Bytes(found->second, SlotState::kReady);
}

SlotStoreFigures SlotStore::figures() const {
  SlotStoreFigures figures;
  figures.memory_bytes_max = arena_.memory_bytes_max();
  figures.region_bytes = arena_.region_bytes();
  figures.free_bytes = arena_.free_bytes();
  figures.regions = static_cast<uint32_t>(arena_.region_count());
  figures.huge_regions = static_cast<uint32_t>(arena_.huge_region_count());
  for (const auto& [version, held] : versions_) {
    const uint64_t unplaced = Bytes(held, SlotState::kUnplaced);
    figures.held_bytes += HeldBytes(version) - unplaced;
    figures.ready_bytes += ReadyBytes(version);
    figures.unplaced_bytes += unplaced;
    figures.replacing_bytes += held.replacing_bytes;
    figures.leaving_bytes += Bytes(held, SlotState::kLeaving) + Bytes(held, SlotState::kWithdrawn);
  }
  figures.waiting_bytes = ReleasingBytes() - figures.leaving_bytes;
  return figures;
}

// Not instrumented: the write races with gather threads on purpose, as real damage would.
__attribute__((no_sanitize("thread"))) Status SlotStore::FlipByte(TableVersion version,
                                                                  SlotIndex slot, uint32_t row,
                                                                  uint32_t byte) {
  const auto found = versions_.find(version);
  if (found == versions_.end()) {
    return {StatusCode::kNotFound, "version " + std::to_string(version.value()) + " is not held"};
  }
  Version& held = found->second;
  if (slot.value() >= held.slots.size() || held.slots[slot.value()].state != SlotState::kReady) {
    return {StatusCode::kNotFound, "slot " + std::to_string(slot.value()) + " is not ready here"};
  }
  const uint32_t row_stride = held.layout->row_stride();
  if (row >= held.layout->slot(slot).row_count || byte >= row_stride) {
    return {StatusCode::kInvalidArgument, "row " + std::to_string(row) + ", byte " +
                                              std::to_string(byte) + ": the slot has " +
                                              std::to_string(held.layout->slot(slot).row_count) +
                                              " rows of " + std::to_string(row_stride) + " bytes"};
  }
  volatile std::byte* target =
      held.slots[slot.value()].piece.data + uint64_t{row} * row_stride + byte;
  *target = *target ^ std::byte{0xff};
  return {};
}

}  // namespace engram
