// Numbers that must not be mixed up.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace engram {

// A number of type Rep that only compares with, and converts to, its own kind.
template <typename Tag, typename Rep>
class StrongId {
 public:
  using rep = Rep;
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}
  [[nodiscard]] constexpr Rep value() const { return value_; }
  friend constexpr auto operator<=>(StrongId, StrongId) = default;

 private:
  Rep value_{};
};

// The address of a row in its layer's table: column offset + hash.
using RowId = StrongId<struct RowIdTag, uint64_t>;
// A slot of one version, counted over all layers and columns.
using SlotIndex = StrongId<struct SlotIndexTag, uint32_t>;
// (slot index * slot_rows) + row in slot: one number for any row of one version, every layer.
using RowAddress = StrongId<struct RowAddressTag, uint64_t>;
// One immutable set of tables; given by the coordinator, never reused; 0 = none.
using TableVersion = StrongId<struct TableVersionTag, uint64_t>;
// Numbers the shard maps of one version, from 1.
using Epoch = StrongId<struct EpochTag, uint64_t>;
// Random per process start of a memory node; 0 = none.
using Incarnation = StrongId<struct IncarnationTag, uint64_t>;
// A memory node's place in one shard map's node list.
using NodeIndex = StrongId<struct NodeIndexTag, uint32_t>;

}  // namespace engram

template <typename Tag, typename Rep>
struct std::hash<engram::StrongId<Tag, Rep>> {
  size_t operator()(engram::StrongId<Tag, Rep> id) const noexcept {
    return std::hash<Rep>{}(id.value());
  }
};
