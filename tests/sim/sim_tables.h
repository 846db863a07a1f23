// The tables of the simulated model: what every row of every version must be.
#pragma once

#include <memory>
#include <vector>

#include "engram/table/table_layout.h"

namespace engram::sim {

[[nodiscard]] TableSpec SimSpec();
[[nodiscard]] const std::shared_ptr<const TableLayout>& SimLayout();
[[nodiscard]] ModelIdentity SimIdentity();
// The rows of a slot as a checkpoint gives them, sealed: [row_count][row_stride].
[[nodiscard]] std::vector<std::byte> SimSlot(TableVersion version, SlotIndex slot);
// True if the stored row is that of this version and place, and nothing else.
[[nodiscard]] bool IsRight(TableVersion version, RowAddress row, const std::byte* stored);

}  // namespace engram::sim
