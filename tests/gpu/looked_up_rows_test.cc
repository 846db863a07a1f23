// Whole tables on the GPU: the same bits as with rows staged from the host.
#include <cstring>

#include <gmock/gmock.h>

#include "tests/gpu/backend_pair.h"
#include "tests/gpu/gpu_test.h"
#include "tests/reference/sequence_run.h"
#include "tests/support/child_process.h"

namespace engram::gpu {
namespace {

using test::Logits;
using test::Prompt;
using test::RandomPrompt;
using test::RunSequences;
using test::Schedule;
using test::ScratchDir;
using test::TinyModel;
using test::TinyModelShape;
using test::TinyRows;
using testing::HasSubstr;

constexpr Backend::Limits kLimits{8, 400, 300};

CheckpointRows OpenTables(const TinyModel& model) {
  auto rows = CheckpointRows::Open(model.dir(), model.layout());
  EXPECT_TRUE(rows.has_value()) << rows.error().ToString();
  return *std::move(rows);
}

class LookedUpRowsTest : public GpuTest {
 protected:
  // Each model in its own folder.
  TinyModel Write(const TinyModelShape& shape) {
    return TinyModel::Write(shape, scratch_.path() / std::to_string(models_++));
  }

  const ScratchDir scratch_;
  int models_ = 0;
};

TEST_F(LookedUpRowsTest, RowIdsGiveTheBitsOfStagedRows) {
  TinyModelShape v41;
  TinyModelShape wide;
  wide.row_values = 256;
  wide.max_ngram_size = 4;
  wide.engram_layers = {0, 2};
  TinyModelShape demo;
  demo.variant = Variant::kDemo;
  demo.row_values = 20;
  TinyModelShape demo_bf16 = demo;
  demo_bf16.demo_table_dtype = Dtype::kBf16;
  for (const TinyModelShape& shape : {v41, wide, demo, demo_bf16}) {
    const TinyModel model = Write(shape);
    const auto backend = OpenCuda(model, kLimits);
    ASSERT_NE(backend, nullptr);
    CheckpointRows rows = OpenTables(model);
    const Status loaded = backend->LoadTables(&rows, nullptr);
    ASSERT_TRUE(loaded.ok()) << loaded.ToString();
    std::vector<Prompt> prompts;
    for (const uint32_t tokens : {40u, 3u, 129u}) {
      prompts.push_back(RandomPrompt(shape, tokens, shape.variant == Variant::kV41, tokens));
    }
    // Decode steps, captured as graphs after a while, and prefill.
    for (Schedule schedule : {Schedule{1, true}, Schedule{64, false}}) {
      const Logits staged = RunSequences(backend.get(), model, prompts, schedule);
      schedule.only_ids = true;
      const Logits looked_up = RunSequences(backend.get(), model, prompts, schedule);
      ASSERT_FALSE(HasFatalFailure());
      EXPECT_EQ(staged, looked_up);
      schedule.engram = false;
      EXPECT_NE(staged, RunSequences(backend.get(), model, prompts, schedule));
    }
  }
}

// Real ids but for one.
class OneIdOutside final : public EngramRows {
 public:
  OneIdOutside(TinyRows* ids, uint32_t id) : ids_(ids), id_(id) {}
  Result<std::span<const LayerRows>> Rows(int32_t layer_index) override {
    ENGRAM_ASSIGN_OR_RETURN(const std::span<const LayerRows> pieces, ids_->Rows(layer_index));
    rows_ = pieces.front();
    std::vector<std::byte>& changed = kept_.emplace_back(rows_.rows.begin(), rows_.rows.end());
    std::memcpy(changed.data() + changed.size() - kRowIdBytes, &id_, kRowIdBytes);
    rows_.rows = changed;
    return {{&rows_, 1}};
  }

 private:
  TinyRows* ids_;
  uint32_t id_;
  std::vector<std::vector<std::byte>> kept_;
  LayerRows rows_;
};

TEST_F(LookedUpRowsTest, AnIdOutsideTheTableEndsTheStep) {
  const TinyModel model = Write({});
  const auto backend = OpenCuda(model, kLimits);
  ASSERT_NE(backend, nullptr);
  const std::vector<TokenId> tokens = {5, 7};
  TokenRun run;
  run.tokens = tokens;
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  std::vector<float> logits;
  const auto forward = [&](EngramRows* rows) {
    backend->ResetSlot(SequenceSlot(0));
    return backend->Forward({&step, 1}, rows, &logits);
  };
  TinyRows ids(model, {&run, 1}, /*only_ids=*/true);
  const Status without = forward(&ids);
  EXPECT_EQ(without.code(), StatusCode::kInternal);
  EXPECT_THAT(without.message(), HasSubstr("no tables"));

  CheckpointRows rows = OpenTables(model);
  ASSERT_TRUE(backend->LoadTables(&rows, nullptr).ok());
  const auto count = static_cast<uint32_t>(model.layout()->row_count(0));
  for (const uint32_t id : {count, UINT32_MAX}) {
    OneIdOutside outside(&ids, id);
    const Status status = forward(&outside);
    EXPECT_EQ(status.code(), StatusCode::kInternal);
    EXPECT_THAT(status.message(), HasSubstr("row id " + std::to_string(id)));
  }
  OneIdOutside last(&ids, count - 1);
  EXPECT_TRUE(forward(&last).ok());
}

TEST_F(LookedUpRowsTest, TablesOfAnotherModelAreRefused) {
  TinyModelShape other;
  other.row_values = 64;
  const TinyModel model = Write({});
  const auto backend = OpenCuda(model, kLimits);
  ASSERT_NE(backend, nullptr);
  CheckpointRows rows = OpenTables(Write(other));
  EXPECT_EQ(backend->LoadTables(&rows, nullptr).code(), StatusCode::kInvalidArgument);
  rows = OpenTables(model);
  EXPECT_TRUE(backend->LoadTables(&rows, nullptr).ok());
}

}  // namespace
}  // namespace engram::gpu
