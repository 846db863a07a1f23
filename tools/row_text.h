// A row's place for people.
#pragma once

#include <string>

#include "engram/table/table_layout.h"

namespace engram {

// "layer 1 row 5 (column 0, slot 3)". Precondition: layout.Contains(address).
[[nodiscard]] std::string RowText(const TableLayout& layout, RowAddress address);

}  // namespace engram
