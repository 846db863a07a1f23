// Columns of text for people.
#pragma once

#include <string>
#include <vector>

namespace engram {

using TableRow = std::vector<std::string>;

// The first row is the head; every row has as many cells. Columns are padded to their widest cell,
// counted in characters of UTF-8.
//   right_aligned  [columns] such as those of numbers, or empty: none
[[nodiscard]] std::string TextTable(const std::vector<TableRow>& rows,
                                    const std::vector<bool>& right_aligned = {});

}  // namespace engram
