#include "bench/table_text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "bench/number_text.h"
#include "engram/base/text_table.h"

namespace engram::bench {
namespace {

// What the numbers of one unit, in all columns, have in common.
struct Magnitudes {
  double least = INFINITY;
  double most = 0;
};

// Zeros and NaN aside.
void Include(double value, Magnitudes* magnitudes) {
  const double magnitude = std::abs(value);
  if (!(magnitude > 0)) return;
  magnitudes->least = std::min(magnitudes->least, magnitude);
  magnitudes->most = std::max(magnitudes->most, magnitude);
}

Prefix PrefixOf(const std::string& unit, const Magnitudes& magnitudes) {
  return magnitudes.most == 0 ? Prefix{} : PrefixFor(unit, magnitudes.least, magnitudes.most);
}

// The same for all numbers of a column: they stand under each other.
int DecimalsOf(const Table& table, size_t column, double factor) {
  Magnitudes magnitudes;
  bool whole = true;
  for (const std::vector<Cell>& row : table.rows) {
    const double* number = row[column].number();
    if (number == nullptr || std::isnan(*number)) continue;
    Include(*number / factor, &magnitudes);
    whole = whole && *number == std::floor(*number);
  }
  if (magnitudes.most == 0 || (whole && factor == 1)) return 0;
  // A ratio near one says something in its last digits; a measurement rarely does.
  const int digits = table.columns[column].unit.empty() ? 4 : 3;
  // The least decides, unless it is next to nothing beside the most.
  return DecimalsFor(std::max(magnitudes.least, magnitudes.most * 1e-3), digits);
}

}  // namespace

std::vector<TableColumnText> TextOfColumns(const Table& table) {
  std::map<std::string, Magnitudes> by_unit;
  for (const std::vector<Cell>& row : table.rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      if (const double* number = row[i].number()) Include(*number, &by_unit[table.columns[i].unit]);
    }
  }
  std::vector<TableColumnText> columns;
  for (size_t i = 0; i < table.columns.size(); ++i) {
    const std::string& unit = table.columns[i].unit;
    const Prefix prefix = PrefixOf(unit, by_unit[unit]);
    const int decimals = DecimalsOf(table, i, prefix.factor);
    TableColumnText column{table.columns[i].label, UnitText(prefix, unit), false, {}};
    for (const std::vector<Cell>& row : table.rows) {
      const double* number = row[i].number();
      column.of_numbers = column.of_numbers || number != nullptr;
      column.cells.push_back(number == nullptr ? std::get<std::string>(row[i])
                                               : NumberText(*number / prefix.factor, decimals));
    }
    columns.push_back(std::move(column));
  }
  return columns;
}

void PrintTable(const Table& table) {
  const std::vector<TableColumnText> columns = TextOfColumns(table);
  std::vector<TableRow> rows(1 + table.rows.size());
  std::vector<bool> right_aligned;
  for (const TableColumnText& column : columns) {
    const bool both = !column.label.empty() && !column.unit.empty();
    rows[0].push_back(column.label + (both ? ", " : "") + column.unit);
    for (size_t row = 0; row < column.cells.size(); ++row) {
      rows[1 + row].push_back(column.cells[row]);
    }
    right_aligned.push_back(column.of_numbers);
  }
  std::printf("%s\n%s", table.title.c_str(), TextTable(rows, right_aligned).c_str());
}

}  // namespace engram::bench
