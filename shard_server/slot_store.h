// Which slots of which versions this memory node holds, where their rows lie, and in what state.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_server.h"
#include "engram/transport/served_slots.h"
#include "shard_server/assigned_slot.h"
#include "shard_server/slot_arena.h"
#include "shard_server/slot_store_figures.h"

namespace engram {

// State owner: ONE thread (the node's store thread) calls everything here; the transport's threads
// only read the ServedSlots that it publishes into; the loader's threads only write the rows of
// EmptySlots, which nobody reads yet.
//
// A slot of a version goes  (none) -> unplaced -> empty -> ready -> leaving -> withdrawn -> (none)
//   unplaced   assigned, and waits for memory that leaving slots or dropped versions still have
//   empty      has memory, rows not there
//   ready      rows loaded, checked, served; its memory does not change any more
//   leaving    assigned no longer, and served on: a reader may still ask here for it under an older
//              map. Ends when every reader has acknowledged the epoch that took it away, or when
//              release_patience has passed.
//   withdrawn  served no longer, but a gather thread or a reader's own read may still be in its
//              memory. Ends when RowServer::MayReuse: then the memory is anyone's.
//   refused    its digest is not the recorded one: never served by this process while it says so
// A slot that comes back while it is leaving or withdrawn is served on, or again, from where it is.
// One that is unassigned while it is unplaced or empty is gone at once: no reader knew it. (While
// it is pinned, its memory stays the loader's.) A refused one that is unassigned is withdrawn.
//
// A ready slot whose rows were found damaged may have a *replacement*: memory beside its own, which
// is filled like an empty slot's. Until then the slot is served where it is, for its other rows are
// good; then it is served at the replacement, and its old memory goes by the rule of withdrawn
// slots, but without an epoch: the map did not change. Only a ready slot has a replacement:
// whatever takes it out of that state lets the replacement, which no reader knew, go.
//
// A dropped version is served on while its readers end their sessions: its slots are leaving. Then
// its memory goes by the rule of withdrawn slots. Whatever becomes free serves the unplaced slots
// of any version: Reclaim.
class SlotStore {
 public:
  struct Options {
    uint64_t memory_bytes_max = 0;
    uint64_t region_bytes_max = 16ull << 30;
    // How long a slot that left is served for readers that do not acknowledge the newer map.
    Duration release_patience = std::chrono::seconds(30);
  };
  // `server` and `clock` must outlive the store.
  SlotStore(RowServer* server, const Clock* clock, const Options& options);

  // Serves a version, with no slot yet; a dropped one of its number ends. ERRORS: kAlreadyExists.
  [[nodiscard]] Status AddVersion(TableVersion version, const ModelIdentity& identity,
                                  std::shared_ptr<const TableLayout> layout);

  // Makes `slots` (ascending) what the node holds of a version: takes memory for new ones, has
  // those that are not in it leave, at the version's newest epoch (SetNewestEpoch first). Where
  // there is no memory, but some is about to be free, slots stay unplaced until Reclaim places
  // them. All or nothing: after an error the slots are as before.
  // ERRORS: kNotFound (no such version), kInvalidArgument (not ascending, or out of range),
  // kResourceExhausted with the figures: nothing was allocated past the limit.
  [[nodiscard]] Status SetSlots(TableVersion version, std::span<const AssignedSlot> slots);

  // Gives a ready slot a replacement, to be filled and published like an empty slot. No effect if
  // it has one. ERRORS: kNotFound (not ready), kResourceExhausted with the figures: there is no
  // memory for a second copy of the slot; it is served on as it is.
  [[nodiscard]] Status StartReplacing(TableVersion version, SlotIndex slot);
  // True while `slot`, which IdleSlots gave, is the replacement of a ready slot.
  [[nodiscard]] bool IsReplacement(TableVersion version, const EmptySlot& slot) const;

  // Empty slots and replacements that are not pinned, ascending: what a loader or copier may be
  // given.
  [[nodiscard]] std::vector<EmptySlot> IdleSlots(TableVersion version) const;
  // True while a slot that IdleSlots gave is still wanted, or is filled already, at these rows.
  [[nodiscard]] bool IsWanted(TableVersion version, const EmptySlot& slot) const;
  // Pins a slot's memory: whoever was given it may write to its rows until Unpin, and it is nobody
  // else's as long, whatever SetSlots and DropVersion do. Precondition: IdleSlots gave it, and
  // nothing was called since that could have changed that.
  void Pin(std::span<const EmptySlot> slots);
  void Unpin(std::span<const EmptySlot> slots);
  // Likewise for whoever reads a ready slot's rows, at `rows` (ReadyRows).
  void PinRows(const std::byte* rows);
  void UnpinRows(const std::byte* rows);

  // The rows of an empty slot or a replacement are there, at the `rows` that IdleSlots gave, and
  // hash to `digest`: serves it, from there. A slot that was taken away or dropped meanwhile (even
  // if it came back, with other memory) is not served: no error. ERRORS: kCorrupt when another
  // digest was recorded meanwhile (the slot is refused), or when a replacement hashes to another
  // one than the slot did (the replacement is let go, the slot is served on as it was).
  [[nodiscard]] Status Publish(TableVersion version, SlotIndex slot, const std::byte* rows,
                               SlotDigest digest);

  // Never goes back.
  void SetNewestEpoch(TableVersion version, Epoch epoch);
  // 0 for an unknown version.
  [[nodiscard]] Epoch NewestEpoch(TableVersion version) const;
  // The node holds nothing of a version any more: its slots leave, and once nobody has a session
  // for it, or release_patience has passed, the version is served no longer. No effect if unknown.
  void DropVersion(TableVersion version);
  // Looks how far readers are: withdraws, takes memory back, and places unplaced slots. SetSlots
  // does it too; call it now and then while NeedsReclaim. True if anything changed.
  bool Reclaim();
  // True while something waits for readers or for memory.
  [[nodiscard]] bool NeedsReclaim() const;

  [[nodiscard]] bool Has(TableVersion version) const {
    const auto found = versions_.find(version);
    return found != versions_.end() && !found->second.retired;
  }
  // Null for an unknown version.
  [[nodiscard]] std::shared_ptr<const TableLayout> layout(TableVersion version) const;
  // Ready slots, ascending, with the digest of their rows. Empty for an unknown version.
  [[nodiscard]] std::vector<AssignedSlot> ReadySlots(TableVersion version) const;
  // Where a ready slot's rows lie; null when it is not ready.
  [[nodiscard]] const std::byte* ReadyRows(TableVersion version, SlotIndex slot) const;
  // The first ready slot at or after `from`; none when there is none.
  [[nodiscard]] std::optional<SlotIndex> NextReady(TableVersion version, SlotIndex from) const;
  // True while readers are given the slot's rows: it is ready or leaving.
  [[nodiscard]] bool IsServed(TableVersion version, SlotIndex slot) const {
    const auto found = versions_.find(version);
    return found != versions_.end() && found->second.served->Rows(slot) != nullptr;
  }
  // Refused slots, ascending.
  [[nodiscard]] std::vector<SlotIndex> RefusedSlots(TableVersion version) const;
  [[nodiscard]] uint64_t EmptyCount(TableVersion version) const;
  [[nodiscard]] uint64_t UnplacedCount(TableVersion version) const;
  // Ready slots whose replacement waits for its rows.
  [[nodiscard]] uint64_t ReplacingCount(TableVersion version) const;
  // Stored bytes of the assigned slots of one version, and of those of them that are ready.
  [[nodiscard]] uint64_t HeldBytes(TableVersion version) const;
  [[nodiscard]] uint64_t ReadyBytes(TableVersion version) const;
  [[nodiscard]] SlotStoreFigures figures() const;

  // TEST HOOK: damages one byte of a ready row in place. ERRORS: kNotFound, kInvalidArgument.
  [[nodiscard]] Status FlipByte(TableVersion version, SlotIndex slot, uint32_t row, uint32_t byte);

 private:
  enum class SlotState : uint8_t {
    kNone,
    kUnplaced,
    kEmpty,
    kReady,
    kLeaving,
    kWithdrawn,
    kRefused
  };
  static constexpr size_t kSlotStates = 7;
  struct Slot {
    SlotState state = SlotState::kNone;
    bool assigned = false;
    SlotDigest recorded = 0;  // by the coordinator
    SlotDigest digest = 0;    // of the rows here, once they were loaded
    ArenaPiece piece;         // data == nullptr: none
    ArenaPiece replacement;   // data == nullptr: none; else the slot is ready
    uint64_t departure = 0;   // leaving or withdrawn: the number of the one it is in
  };
  // Slots that left together. One that came back has another state, or is in another departure.
  struct Departure {
    Epoch epoch;  // the newest when they left
    MonotonicTime since;
    std::vector<uint32_t> slots;
    std::optional<MemoryRelease> release;  // once they are withdrawn
  };
  struct Version {
    bool retired = false;  // dropped: ends once no slot of it is served
    std::shared_ptr<const TableLayout> layout;
    std::shared_ptr<ServedSlots> served;
    std::vector<Slot> slots;                     // [slot_count]
    std::array<uint64_t, kSlotStates> bytes{};   // stored bytes of slots by state
    std::array<uint32_t, kSlotStates> counts{};  // slots by state
    uint32_t replacing = 0;                      // slots that have a replacement
    uint64_t replacing_bytes = 0;                // of those
    std::map<uint64_t, Departure> departures;    // by number
  };
  using Versions = std::map<TableVersion, Version>;
  // Memory that somebody's thread may write to, by its rows.
  struct PinnedPiece {
    uint32_t count = 0;
    ArenaPiece let_go;  // data == nullptr: its slot still has it
  };
  // Memory of a dropped version, or of a slot that was replaced.
  struct Waiting {
    std::vector<ArenaPiece> pieces;
    std::weak_ptr<const ServedSlots> readers;  // of the dropped version; none for a replaced slot
    MemoryRelease release;
  };

  [[nodiscard]] static uint64_t Bytes(const Version& version, SlotState state) {
    return version.bytes[static_cast<size_t>(state)];
  }
  [[nodiscard]] static uint32_t Count(const Version& version, SlotState state) {
    return version.counts[static_cast<size_t>(state)];
  }
  void SetState(Version& version, uint32_t slot, SlotState state);
  void Serve(Version& version, uint32_t slot);
  // Serves a slot from its replacement, whose rows are there.
  void Replace(TableVersion number, Version& version, uint32_t slot);
  // No effect if it has none.
  void LetReplacementGo(Version& version, uint32_t slot);
  // What becomes of one slot under a new assignment, its memory already there if it needs any.
  void Assign(Version& version, uint32_t slot, SlotDigest recorded);
  void Unassign(Version& version, uint32_t slot, Departure* departure, uint64_t number);
  // OK: memory for what is assigned with `slots` there is, or will be.
  [[nodiscard]] Status CheckRoom(TableVersion number, const Version& version,
                                 std::span<const AssignedSlot> slots) const;
  // Bytes that are about to be free.
  [[nodiscard]] uint64_t ReleasingBytes() const;
  // No reader may still ask for its slots, or readers were waited for long enough.
  [[nodiscard]] bool MayWithdraw(TableVersion number, const Departure& departure) const;
  bool AdvanceDeparture(TableVersion number, Version& version, uint64_t departure_number,
                        Departure& departure);
  void Withdraw(TableVersion number, Version& version, Departure& departure);
  // Stops serving a version; what memory it still has waits for its readers.
  Versions::iterator EndVersion(Versions::iterator ended);
  bool PlaceUnplaced(Version& version);
  // No reader can reach the piece: gives it back, now or when it is pinned no longer.
  void LetGo(const ArenaPiece& piece);

  RowServer* server_;
  const Clock* clock_;
  Duration release_patience_;
  SlotArena arena_;
  Versions versions_;
  std::vector<Waiting> waiting_;
  std::unordered_map<const std::byte*, PinnedPiece> pins_;
  uint64_t departures_ = 0;  // so far: numbers start at 1
};

}  // namespace engram
