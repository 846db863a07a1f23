// Columns of text for people.
#pragma once

#include <string>
#include <vector>

namespace engram {

using TableRow = std::vector<std::string>;

// The first row is the head; every row has as many cells. Columns are padded to their widest cell.
[[nodiscard]] std::string TextTable(const std::vector<TableRow>& rows);

}  // namespace engram
