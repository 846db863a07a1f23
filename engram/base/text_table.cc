#include "engram/base/text_table.h"

#include <algorithm>

namespace engram {
namespace {

size_t CharacterCount(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

std::string TextTable(const std::vector<TableRow>& rows, const std::vector<bool>& right_aligned) {
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const TableRow& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], CharacterCount(row[i]));
  }
  std::string text;
  for (const TableRow& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      const size_t padding = widths[i] - CharacterCount(row[i]);
      const bool right = i < right_aligned.size() && right_aligned[i];
      if (right) text.append(padding, ' ');
      text += row[i];
      if (i + 1 < row.size()) text.append((right ? 0 : padding) + 2, ' ');
    }
    text += "\n";
  }
  return text;
}

}  // namespace engram
