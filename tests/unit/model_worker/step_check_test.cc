// What a backend refuses of the rows that it is given.
#include "model_worker/step_check.h"

#include <array>
#include <cstring>
#include <span>
#include <vector>

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
    rows.landed = landed_;
    return CheckLayerRows(shape_, {&rows, 1}, 2);
  }

  LayerRowsShape shape_{14, Variant::kV41, 3, 264, 100};
  LandedTable landed_;
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

TEST_F(CheckRowIdsTest, IdsOfRowsThatLandedAreLookedForThere) {
  shape_.takes_landed = true;
  shape_.table_rows = 5;
  const std::byte somewhere{};
  landed_ = {&somewhere, 100};
  EXPECT_TRUE(Check({0, 1, 2, 3, 4, 99}).ok());
  EXPECT_THAT(Check({0, 1, 2, 3, 4, 100}).message(), HasSubstr("of a table of 100 rows"));
  shape_.takes_landed = false;
  const Status elsewhere = Check({0, 1, 2, 3, 4, 99});
  EXPECT_EQ(elsewhere.code(), StatusCode::kInternal);
  EXPECT_THAT(elsewhere.message(), HasSubstr("does not compute with"));
}

class CheckPiecesTest : public testing::Test {
 protected:
  // Of one column of 4 bytes, which may be a row or an id.
  [[nodiscard]] Status Check(std::span<const LayerRows> pieces) {
    return CheckLayerRows({1, Variant::kV41, 1, kRowIdBytes, 100}, pieces, 3);
  }
  [[nodiscard]] LayerRows Piece(uint32_t tokens, bool only_ids = false) const {
    LayerRows rows{std::span(bytes_).first(size_t{tokens} * kRowIdBytes), {}, tokens};
    rows.only_ids = only_ids;
    return rows;
  }

  const std::vector<std::byte> bytes_ = std::vector<std::byte>(64);
};

TEST_F(CheckPiecesTest, AllTokensOfTheStepAreInThem) {
  EXPECT_TRUE(Check(std::array{Piece(3)}).ok());
  EXPECT_TRUE(Check(std::array{Piece(1), Piece(2)}).ok());
  EXPECT_THAT(Check({}).message(), HasSubstr("rows of 0 tokens, the step has 3"));
  EXPECT_THAT(Check(std::array{Piece(1), Piece(1)}).message(), HasSubstr("rows of 2 tokens"));
  EXPECT_THAT(Check(std::array{Piece(3), Piece(1)}).message(), HasSubstr("rows of 4 tokens"));
}

TEST_F(CheckPiecesTest, EachPieceIsLookedAt) {
  LayerRows shorter = Piece(2);
  shorter.rows = shorter.rows.first(7);
  EXPECT_THAT(Check(std::array{Piece(1), shorter}).message(), HasSubstr("7 bytes for 2 tokens"));
  const std::vector<uint8_t> dead = {1};
  LayerRows masked = Piece(2);
  masked.dead = dead;
  EXPECT_THAT(Check(std::array{Piece(1), masked}).message(), HasSubstr("1 entries for 2 tokens"));
}

TEST_F(CheckPiecesTest, RowsAndIdsAreNotMixed) {
  const Status status = Check(std::array{Piece(1), Piece(2, /*only_ids=*/true)});
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("Engram layer 1: "));
  EXPECT_THAT(status.message(), HasSubstr("row ids for others"));
}

}  // namespace
}  // namespace engram
