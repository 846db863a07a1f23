// What a backend refuses of the rows that it is given.
#include "model_worker/step_check.h"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using testing::HasSubstr;

class CheckRowIdsTest : public testing::Test {
 protected:
  // Two tokens of three columns.
  [[nodiscard]] Status Check(const std::vector<uint32_t>& ids, std::span<const uint8_t> dead = {}) {
    bytes_.resize(ids.size() * kRowIdBytes);
    std::memcpy(bytes_.data(), ids.data(), bytes_.size());
    LayerRows rows{bytes_, dead, 2};
    rows.only_ids = true;
    return CheckLayerRows(shape_, rows, 2);
  }

  LayerRowsShape shape_{14, Variant::kV41, 3, 264, 100};
  std::vector<std::byte> bytes_;
};

TEST_F(CheckRowIdsTest, IdsOfTheTableAreTaken) { EXPECT_TRUE(Check({0, 1, 2, 3, 4, 99}).ok()); }

TEST_F(CheckRowIdsTest, AnIdOutsideTheTableIsNamed) {
  for (size_t place = 0; place < 6; ++place) {
    std::vector<uint32_t> ids(6, 99);
    ids[place] = 100;
    const Status status = Check(ids);
    EXPECT_EQ(status.code(), StatusCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr("Engram layer 14"));
    EXPECT_THAT(status.message(), HasSubstr("row id 100 of a table of 100 rows"));
  }
}

TEST_F(CheckRowIdsTest, IdsOfDeadPositionsNameNothing) {
  const std::vector<uint8_t> dead = {1, 0};
  EXPECT_TRUE(Check({~0u, 100, 5, 0, 1, 2}, dead).ok());
  EXPECT_FALSE(Check({0, 1, 2, 0, 100, 2}, dead).ok());
}

TEST_F(CheckRowIdsTest, IdsForOtherTokensAreNotOfTheStep) {
  EXPECT_THAT(Check({0, 1, 2}).message(), HasSubstr("do not belong together"));
}

TEST_F(CheckRowIdsTest, IdsWithoutATableAreRefused) {
  shape_.table_rows = 0;
  const Status status = Check({0, 0, 0, 0, 0, 0});
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("no tables"));
}

}  // namespace
}  // namespace engram
