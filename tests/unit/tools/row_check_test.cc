#include "tools/row_check.h"

#include <filesystem>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tools/model_plan.h"
#include "tools/model_writer.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// Memory nodes that hold what a checkpoint says, with faults planted by row address.
class PlantedNodes final : public RowLookup {
 public:
  PlantedNodes(CheckpointRows rows, std::shared_ptr<const TableLayout> layout)
      : rows_(std::move(rows)), layout_(std::move(layout)) {}

  Status ReadRows(std::span<const RowAddress> rows, std::span<std::byte> bytes,
                  std::span<StatusCode> statuses) override {
    const size_t row_bytes = layout_->row_bytes();
    Status first;
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_TRUE(layout_->Contains(rows[i]));
      asked.insert(rows[i].value());
      const auto target = bytes.subspan(i * row_bytes, row_bytes);
      statuses[i] = StatusCode::kOk;
      if (corrupt.count(rows[i].value()) != 0) {
        statuses[i] = StatusCode::kCorrupt;
        if (first.ok()) first = Status(StatusCode::kCorrupt, "its CRC is wrong on node m1");
        continue;
      }
      const RowPlace place = layout_->Place(rows[i]);
      EXPECT_EQ(rows_.Read(place.layer_index, place.row, 1, target), Status());
      if (changed.count(rows[i].value()) != 0) target[row_bytes - 1] ^= std::byte{1};
    }
    return first;
  }

  std::set<uint64_t> corrupt;
  std::set<uint64_t> changed;
  std::set<uint64_t> asked;

 private:
  CheckpointRows rows_;
  std::shared_ptr<const TableLayout> layout_;
};

class RowCheckTest : public ::testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    MakeModelOptions options;
    options.variant = GetParam();
    options.tables_only = true;
    options.engram_layers = {1, 3};
    options.base_rows = 130;
    options.engram_heads = 2;
    options.row_values = 32;
    const fs::path tokenizer_json = fs::path(ENGRAM_TEST_DATA) / "tiny_tokenizer.json";
    const auto tokenizer = Tokenizer::Load(tokenizer_json);
    ASSERT_TRUE(tokenizer.has_value());
    const auto plan = PlanModel(options, *tokenizer, *CompressVocabulary(*tokenizer));
    ASSERT_TRUE(plan.has_value()) << plan.error().ToString();
    ProgressLine progress;
    ASSERT_EQ(WriteModel(*plan, {model(), tokenizer_json, 1, false}, progress), Status());
    layout_ = std::make_shared<const TableLayout>(*TableLayout::Create(plan->spec));
    auto held = CheckpointRows::Open(model(), layout_);
    ASSERT_TRUE(held.has_value()) << held.error().ToString();
    nodes_ = std::make_unique<PlantedNodes>(*std::move(held), layout_);
    auto checkpoint = CheckpointRows::Open(model(), layout_);
    ASSERT_TRUE(checkpoint.has_value());
    checkpoint_ = std::make_unique<CheckpointRows>(*std::move(checkpoint));
    check_ = std::make_unique<RowCheck>(nodes_.get(), checkpoint_.get(), layout_.get());
  }
  [[nodiscard]] fs::path model() const { return scratch_.path() / "model"; }
  [[nodiscard]] uint64_t rows() const { return layout_->row_count(0) + layout_->row_count(1); }

  test::ScratchDir scratch_;
  std::shared_ptr<const TableLayout> layout_;
  std::unique_ptr<PlantedNodes> nodes_;
  std::unique_ptr<CheckpointRows> checkpoint_;
  std::unique_ptr<RowCheck> check_;
};
INSTANTIATE_TEST_SUITE_P(Variants, RowCheckTest, ::testing::Values(Variant::kV41, Variant::kDemo));

TEST_P(RowCheckTest, AllReadsEveryRowOnce) {
  ASSERT_EQ(check_->CheckAll([](const RowCheckResult&) {}), Status());
  EXPECT_EQ(check_->result().rows_verified, rows());
  EXPECT_EQ(nodes_->asked.size(), rows());
  EXPECT_EQ(check_->result().first_failure, StatusCode::kOk);
}

TEST_P(RowCheckTest, WrongAndCorruptRowsAreFoundAndNamed) {
  nodes_->changed = {layout_->Address(1, 2, 77).value()};
  nodes_->corrupt = {layout_->Address(0, 1, 5).value()};
  ASSERT_EQ(check_->CheckAll([](const RowCheckResult&) {}), Status());
  const RowCheckResult& result = check_->result();
  EXPECT_EQ(result.rows_wrong, 1u);
  EXPECT_EQ(result.rows_failed, 1u);
  EXPECT_EQ(result.rows_verified, rows() - 2);
  EXPECT_EQ(result.first_failure, StatusCode::kCorrupt);
  ASSERT_EQ(result.failures.size(), 2u);
  const uint64_t row = layout_->column(0, 1).row_offset + 5;
  EXPECT_THAT(result.failures[0], HasSubstr("layer 1 row " + std::to_string(row) + " (column 1"));
  EXPECT_THAT(result.failures[0], HasSubstr("CORRUPT: its CRC is wrong on node m1"));
  EXPECT_THAT(result.failures[1], HasSubstr("layer 3 row"));
  EXPECT_THAT(result.failures[1], HasSubstr("not the checkpoint's"));
}

TEST_P(RowCheckTest, SampleReadsSoManyRowsOfBothLayers) {
  ASSERT_EQ(check_->CheckSample(20000, 9, [](const RowCheckResult&) {}), Status());
  EXPECT_EQ(check_->result().rows_verified, 20000u);
  // About 1,600 rows, each drawn 12 times: all but a few are seen.
  EXPECT_GT(nodes_->asked.size(), rows() * 9 / 10);
}

TEST_P(RowCheckTest, FailuresAreCountedButOnlyTheFirstAreListed) {
  for (uint32_t i = 0; i < 100; ++i) nodes_->corrupt.insert(layout_->Address(0, 0, i).value());
  ASSERT_EQ(check_->CheckAll([](const RowCheckResult&) {}), Status());
  EXPECT_EQ(check_->result().rows_failed, 100u);
  EXPECT_EQ(check_->result().failures.size(), kFailuresShown);
}

}  // namespace
}  // namespace engram
