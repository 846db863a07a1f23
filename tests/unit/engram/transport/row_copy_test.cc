#include "engram/transport/row_copy.h"

#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(RowCopyTest, EveryCountCopiesItsRowsAndZeroesWhatIsMissing) {
  constexpr uint32_t kStride = 68;
  std::vector<std::byte> table(200 * kStride);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::byte>(i * 31 % 251 + 1);
  for (const uint32_t count : {1u, 2u, 15u, 16u, 17u, 33u, 200u}) {
    std::vector<std::byte> out(count * kStride, std::byte{0xee});
    std::vector<StatusCode> statuses(count);
    const auto row_of = [](uint32_t i) { return RowAddress((i * 7) % 200); };
    const uint32_t found = CopyRows(
        [&](RowAddress row) -> FoundRow {
          if (row.value() % 5 == 3) return {nullptr, StatusCode::kNotOwned};
          return {table.data() + row.value() * kStride, StatusCode::kOk};
        },
        row_of, count, kStride, out.data(), statuses.data());
    uint32_t expected = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const uint64_t row = row_of(i).value();
      const bool there = row % 5 != 3;
      expected += there;
      EXPECT_EQ(statuses[i], there ? StatusCode::kOk : StatusCode::kNotOwned);
      for (uint32_t b = 0; b < kStride; ++b) {
        ASSERT_EQ(out[i * kStride + b], there ? table[row * kStride + b] : std::byte{0});
      }
    }
    EXPECT_EQ(found, expected);
  }
}

}  // namespace
}  // namespace engram
