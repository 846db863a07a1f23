// A table as people read it: one prefix for each unit, as many digits as say something.
#pragma once

#include <string>
#include <vector>

#include "bench/figures.h"

namespace engram::bench {

struct TableColumnText {
  std::string label;
  std::string unit;  // with the prefix that its numbers are in: "M rows/s"
  bool of_numbers = false;
  std::vector<std::string> cells;  // one for each row
};

// All columns of one unit get the same prefix, so that they can be compared.
[[nodiscard]] std::vector<TableColumnText> TextOfColumns(const Table& table);

// For the terminal: the title, and the columns under their heads.
void PrintTable(const Table& table);

}  // namespace engram::bench
