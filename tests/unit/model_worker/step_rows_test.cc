// A step's rows out of several tickets: as rows, and as row ids that a backend looks up.
#include "model_worker/step_rows.h"

#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "client/local_rows.h"
#include "client/local_tables.h"
#include "engram/table/table_layout.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

class StepRowsTest : public testing::Test {
 protected:
  void SetUp() override {
    hasher_ = {std::shared_ptr<const void>(), &model_.hasher()};  // the model's own
    auto tables = LocalTables::Load(model_.dir(), layout_);
    ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
    tables_ = *tables;
    LocalRowsOptions options;
    options.batch_tokens_max = 16;
    rows_ = CreateLocalRows(options, tables_, hasher_).value();
    ids_ = CreateRowIds(options, layout_, hasher_).value();
    const std::vector<uint8_t> dead = {0, 0, 1, 0, 1};
    const TokenRun first{.tokens = long_};
    const TokenRun second{.tokens = short_};
    const TokenRun third{.tokens = short_, .tokens_dead = dead};
    for (const auto& [source, tickets] :
         {std::pair{rows_.get(), &rows_tickets_}, {ids_.get(), &ids_tickets_}}) {
      for (const TokenRun& run : {first, second, third}) {
        tickets->push_back(source->Prefetch({&run, 1}, {}).value());
      }
    }
  }

  // Pieces are {ticket's number, first token, tokens}.
  void ExpectIdsNameTheRows(std::vector<RowPiece> pieces) {
    StepRows rows(rows_.get());
    StepRows ids(ids_.get());
    std::vector<RowPiece> of_ids = pieces;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const size_t number = pieces[i].ticket.value();
      pieces[i].ticket = rows_tickets_[number];
      of_ids[i].ticket = ids_tickets_[number];
    }
    rows.Begin(pieces);
    ids.Begin(of_ids);
    for (int32_t layer = 0; layer < layout_->layer_count(); ++layer) {
      const auto all_wanted = rows.Rows(layer);
      const auto all_got = ids.Rows(layer);
      ASSERT_TRUE(all_wanted.has_value() && all_got.has_value());
      ASSERT_EQ(all_wanted->size(), pieces.size());
      ASSERT_EQ(all_got->size(), pieces.size());
      for (size_t i = 0; i < pieces.size(); ++i) {
        EXPECT_EQ((*all_got)[i].token_count, pieces[i].token_count);
        ExpectIdsNameThePiece(layer, (*all_got)[i], (*all_wanted)[i]);
      }
    }
  }

  void ExpectIdsNameThePiece(int32_t layer, const LayerRows& got, const LayerRows& wanted) {
    const auto columns = static_cast<size_t>(layout_->column_count());
    const size_t row_bytes = layout_->row_bytes();
    EXPECT_FALSE(wanted.only_ids);
    EXPECT_TRUE(got.only_ids);
    ASSERT_EQ(got.token_count, wanted.token_count);
    ASSERT_EQ(got.rows.size(), got.token_count * columns * kRowIdBytes);
    ASSERT_TRUE(
        std::equal(got.dead.begin(), got.dead.end(), wanted.dead.begin(), wanted.dead.end()));
    for (size_t place = 0; place < got.token_count * columns; ++place) {
      if (!got.dead.empty() && got.dead[place / columns] != 0) continue;
      uint32_t id = 0;
      std::memcpy(&id, got.rows.data() + place * kRowIdBytes, kRowIdBytes);
      ASSERT_LT(id, layout_->row_count(layer));
      ASSERT_EQ(std::memcmp(tables_->rows(layer) + id * row_bytes,
                            wanted.rows.data() + place * row_bytes, row_bytes),
                0);
    }
  }

  const test::ScratchDir scratch_;
  const test::TinyModel model_ = test::TinyModel::Write({}, scratch_.path());
  const std::shared_ptr<const TableLayout> layout_ = model_.layout();
  std::shared_ptr<const NgramHasher> hasher_;
  std::shared_ptr<const LocalTables> tables_;
  std::unique_ptr<RowSource> rows_, ids_;
  const std::vector<TokenId> long_ = {5, 7, 5, 7, 5, 3, 599, 0, 1, 2, 3, 4};
  const std::vector<TokenId> short_ = {9, 9, 9, 8, 7};
  std::vector<Ticket> rows_tickets_, ids_tickets_;
};

TEST_F(StepRowsTest, IdsOfOneTicketAreHandedThrough) {
  ExpectIdsNameTheRows({{Ticket(0), 0, 12}});
  ExpectIdsNameTheRows({{Ticket(0), 3, 4}});
  ExpectIdsNameTheRows({{Ticket(2), 1, 3}});
}

TEST_F(StepRowsTest, IdsOfSeveralTicketsComeInPieces) {
  ExpectIdsNameTheRows({{Ticket(0), 2, 9}, {Ticket(1), 0, 5}});
  ExpectIdsNameTheRows({{Ticket(1), 4, 1}, {Ticket(2), 0, 5}, {Ticket(0), 11, 1}});
}

}  // namespace
}  // namespace engram
