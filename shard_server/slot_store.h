// Which slots of which versions this memory node holds, where their rows lie, and in what state.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_server.h"
#include "engram/transport/served_slots.h"
#include "shard_server/slot_arena.h"

namespace engram {

// XXH3-64 (seed 0) over a slot's stored rows as they lie in memory: row_count x row_stride bytes,
// in row order, every row's values, scales and CRC. So it binds the bytes, their order, and
// (through the CRCs) version, layer and row ids. Never 0: a hash of 0 becomes 1, because 0 means
// "not recorded yet" (docs/formats/slot_digest.md).
using SlotDigest = uint64_t;

struct AssignedSlot {
  SlotIndex slot;
  SlotDigest digest = 0;  // recorded by the coordinator; 0 = the first load records it
  friend bool operator==(const AssignedSlot&, const AssignedSlot&) = default;
};

// A slot that has memory and waits for its rows.
struct EmptySlot {
  SlotIndex slot;
  std::byte* rows = nullptr;  // [row_count][row_stride]
  SlotDigest digest = 0;      // wanted; 0 = any
};

struct SlotStoreFigures {
  uint64_t memory_bytes_max = 0;
  uint64_t region_bytes = 0;     // allocated from the transport: what --memory limits
  uint64_t free_bytes = 0;       // of region_bytes: in no slot
  uint64_t held_bytes = 0;       // stored rows of assigned slots, loaded or not
  uint64_t ready_bytes = 0;      // of held_bytes: loaded, checked and served
  uint64_t withdrawn_bytes = 0;  // slots no longer assigned, kept until their version is dropped
  uint64_t waiting_bytes = 0;    // of dropped versions: waits for the last lease to end
  uint32_t regions = 0;
  uint32_t huge_regions = 0;
};

// State owner: ONE thread (the node's store thread) calls everything here; the transport's threads
// only read the ServedSlots that it publishes into; the loader's threads only write the rows of
// EmptySlots, which nobody reads yet.
//
// A slot of a version goes  (none) -> empty -> ready -> withdrawn -> ready ...
//                                       \-> refused <-/
//   empty      has memory, rows not there
//   ready      rows loaded, checked, served; its memory does not change any more
//   withdrawn  was ready, is assigned no longer: not served, rows and memory kept, so that a slot
//              that comes back is served again at once. Its memory is NOT reused while the version
//              lives, because mapped reads may still be in it. (A slot that was empty when it was
//              taken away gives its memory back, unless a load may be writing to it: see Pin.)
//   refused    its digest is not the recorded one: never served by this process
// Memory of a dropped version is reused once no gather thread holds the version (the ServedSlots
// have no owner left) and `lease` has passed, so that no mapped or one-sided read can be in it.
class SlotStore {
 public:
  struct Options {
    uint64_t memory_bytes_max = 0;
    uint64_t region_bytes_max = 16ull << 30;
    Duration lease{};  // the longest lease that the RowServer grants
  };
  // `server` and `clock` must outlive the store.
  SlotStore(RowServer* server, const Clock* clock, const Options& options);

  // Starts serving a version (with no slot yet). ERRORS: kAlreadyExists.
  [[nodiscard]] Status AddVersion(TableVersion version, const ModelIdentity& identity,
                                  std::shared_ptr<const TableLayout> layout);

  // Makes `slots` (ascending) what the node holds of a version: takes memory for new ones,
  // withdraws those that are not in it. All or nothing: after an error the slots are as before.
  // ERRORS: kNotFound (no such version), kInvalidArgument (not ascending, or out of range),
  // kResourceExhausted with the figures: nothing was allocated past the limit.
  [[nodiscard]] Status SetSlots(TableVersion version, std::span<const AssignedSlot> slots);

  // Empty slots that are not pinned, ascending: what a loader or copier may be given.
  [[nodiscard]] std::vector<EmptySlot> IdleSlots(TableVersion version) const;
  // True while a slot that IdleSlots gave is still wanted, or is filled already, at these rows.
  [[nodiscard]] bool IsWanted(TableVersion version, const EmptySlot& slot) const;
  // Pins a slot's memory: whoever was given it may write to its rows until Unpin, and it is nobody
  // else's as long, whatever SetSlots and DropVersion do. Precondition: IdleSlots gave it, and
  // nothing was called since that could have changed that.
  void Pin(std::span<const EmptySlot> slots);
  void Unpin(std::span<const EmptySlot> slots);

  // The rows of an empty slot are there, at the `rows` that IdleSlots gave, and hash to
  // `digest`: serves it. A slot that was taken away or dropped meanwhile (even if it came back,
  // with other memory) is not served: no error. ERRORS: kCorrupt when another digest was recorded
  // meanwhile (the slot is refused).
  [[nodiscard]] Status Publish(TableVersion version, SlotIndex slot, const std::byte* rows,
                               SlotDigest digest);

  void SetNewestEpoch(TableVersion version, Epoch epoch);
  // Stops serving a version and lets its memory go, when that is safe. No effect if unknown.
  void DropVersion(TableVersion version);
  // Takes back what dropped versions no longer need. SetSlots does it too.
  void Reclaim();

  [[nodiscard]] bool Has(TableVersion version) const { return versions_.contains(version); }
  // Null for an unknown version.
  [[nodiscard]] std::shared_ptr<const TableLayout> layout(TableVersion version) const;
  // Ready slots, ascending, with the digest of their rows. Empty for an unknown version.
  [[nodiscard]] std::vector<AssignedSlot> ReadySlots(TableVersion version) const;
  // Refused slots, ascending.
  [[nodiscard]] std::vector<SlotIndex> RefusedSlots(TableVersion version) const;
  [[nodiscard]] uint64_t EmptyCount(TableVersion version) const;
  // Stored bytes of the assigned slots of one version, and of those of them that are ready.
  [[nodiscard]] uint64_t HeldBytes(TableVersion version) const;
  [[nodiscard]] uint64_t ReadyBytes(TableVersion version) const;
  [[nodiscard]] SlotStoreFigures figures() const;

  // TEST HOOK: damages one byte of a ready row in place. ERRORS: kNotFound, kInvalidArgument.
  [[nodiscard]] Status FlipByte(TableVersion version, SlotIndex slot, uint32_t row, uint32_t byte);

 private:
  enum class SlotState : uint8_t { kNone, kEmpty, kReady, kWithdrawn, kRefused };
  static constexpr size_t kSlotStates = 5;
  struct Slot {
    SlotState state = SlotState::kNone;
    bool assigned = false;
    SlotDigest recorded = 0;  // by the coordinator
    SlotDigest digest = 0;    // of the rows here, once they were loaded
    ArenaPiece piece;         // data == nullptr: none
  };
  struct Version {
    std::shared_ptr<const TableLayout> layout;
    std::shared_ptr<ServedSlots> served;
    std::vector<Slot> slots;                     // [slot_count]
    std::array<uint64_t, kSlotStates> bytes{};   // stored bytes of slots by state
    std::array<uint32_t, kSlotStates> counts{};  // slots by state
  };
  // Memory that somebody's thread may write to, by its rows.
  struct PinnedPiece {
    uint32_t count = 0;
    ArenaPiece let_go;  // data == nullptr: its slot still has it
  };
  // Memory of a dropped version.
  struct Waiting {
    TableVersion version;
    std::vector<ArenaPiece> pieces;
    std::weak_ptr<const ServedSlots> readers;
    MonotonicTime reusable_from;
  };

  void SetState(Version& version, uint32_t slot, SlotState state);
  void Serve(Version& version, uint32_t slot);
  // What becomes of one slot under a new assignment, its memory already there if it needs any.
  void Assign(Version& version, uint32_t slot, SlotDigest recorded);
  void Unassign(Version& version, uint32_t slot);
  // No reader can reach the piece: gives it back, now or when it is pinned no longer.
  void LetGo(const ArenaPiece& piece);

  RowServer* server_;
  const Clock* clock_;
  Duration lease_;
  SlotArena arena_;
  std::map<TableVersion, Version> versions_;
  std::vector<Waiting> waiting_;
  std::unordered_map<const std::byte*, PinnedPiece> pins_;
};

}  // namespace engram
