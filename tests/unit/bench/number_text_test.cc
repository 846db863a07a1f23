#include "bench/number_text.h"

#include <cmath>

#include <gtest/gtest.h>

#include "bench/table_text.h"

namespace engram::bench {
namespace {

TEST(NumberTextTest, QuantitiesGetThePrefixThatFitsTheirUnit) {
  EXPECT_EQ(QuantityText(33.14e-6, "s"), "33.1 \u00b5s");
  EXPECT_EQ(QuantityText(61, "s"), "61 s");
  EXPECT_EQ(QuantityText(160e-9, "s/row"), "160 ns/row");
  EXPECT_EQ(QuantityText(5.184e6, "rows/s"), "5.18 M rows/s");
  EXPECT_EQ(QuantityText(694e6, "B/s"), "694 MB/s");
  EXPECT_EQ(QuantityText(12288, "tokens"), "12,288 tokens");
  EXPECT_EQ(QuantityText(1.00123, ""), "1.001");
  EXPECT_EQ(QuantityText(0, "s"), "0 ns");
  EXPECT_EQ(QuantityText(std::nan(""), "s"), "-");
}

TEST(NumberTextTest, ThousandsAreApart) {
  EXPECT_EQ(NumberText(999, 0), "999");
  EXPECT_EQ(NumberText(-1234567.891, 2), "-1,234,567.89");
  EXPECT_EQ(NumberText(-0.001, 1), "0.0");
  EXPECT_EQ(CompactText(65536), "65,536");
  EXPECT_EQ(CompactText(131072), "131k");
  EXPECT_EQ(CompactText(2e6), "2M");
  EXPECT_EQ(CompactText(0.25), "0.25");
}

TEST(NumberTextTest, ColumnsOfOneUnitShareAPrefixAndEachHasItsDecimals) {
  const Table table{.title = "Reading",
                    .columns = {{"way"}, {"p50", "s"}, {"p99", "s"}, {"ratio"}, {"rows", "rows"}},
                    .rows = {{"gather", 33e-6, 182e-6, 0.99812, 48},
                             {"mapped", 2.23e-3, std::nan(""), 1.0, 12288}}};
  const std::vector<TableColumnText> columns = TextOfColumns(table);
  EXPECT_FALSE(columns[0].of_numbers);
  EXPECT_EQ(columns[1].unit, "\u00b5s");
  EXPECT_EQ(columns[1].cells, (std::vector<std::string>{"33.0", "2,230.0"}));
  EXPECT_EQ(columns[2].unit, "\u00b5s");
  EXPECT_EQ(columns[2].cells, (std::vector<std::string>{"182", "-"}));
  EXPECT_EQ(columns[3].cells, (std::vector<std::string>{"0.9981", "1.0000"}));
  EXPECT_EQ(columns[4].cells, (std::vector<std::string>{"48", "12,288"}));
}

}  // namespace
}  // namespace engram::bench
