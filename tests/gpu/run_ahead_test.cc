// The host runs ahead of the GPU, and rows stay right while it does.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

#include "tests/gpu/backend_pair.h"
#include "tests/gpu/gpu_test.h"
#include "tests/reference/sequence_run.h"
#include "tests/support/child_process.h"

namespace engram::gpu {
namespace {

using std::chrono::steady_clock;

double MillisecondsSince(steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(steady_clock::now() - begin).count();
}

// Rows that were made before, so that asking costs nothing; `before` is told of each asking.
class ReadyRows final : public EngramRows {
 public:
  ReadyRows(const test::TinyModel& model, std::span<const TokenRun> runs) {
    for (int32_t layer = 0; layer < 2; ++layer) made_.push_back(model.Rows(layer, runs));
    for (const TokenRun& run : runs) token_count_ += static_cast<uint32_t>(run.tokens.size());
  }
  // Rows are handed out of here from now on: [layers][...].
  void HandOutOf(std::vector<std::span<std::byte>> memory) { handed_ = std::move(memory); }
  std::function<void(int32_t layer)> before;

  Result<std::span<const LayerRows>> Rows(int32_t layer) override {
    if (before) before(layer);
    const std::vector<std::byte>& made = made_[static_cast<size_t>(layer)];
    rows_ = {made, {}, token_count_};
    if (!handed_.empty()) {
      const auto target = handed_[static_cast<size_t>(layer)].first(made.size());
      std::memcpy(target.data(), made.data(), made.size());
      rows_.rows = target;
    }
    return {{&rows_, 1}};
  }

 private:
  std::vector<std::vector<std::byte>> made_;
  std::vector<std::span<std::byte>> handed_;
  LayerRows rows_;
  uint32_t token_count_ = 0;
};

constexpr Backend::Limits kLimits{16, 512, 8192};

class RunAheadTest : public GpuTest {
 protected:
  static void SetUpTestSuite() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return;
    test::TinyModelShape shape;
    shape.dtype = Dtype::kBf16;
    shape.hidden_size = 1024;
    shape.intermediate_size = 2048;
    shape.layer_count = 8;
    shape.head_count = 8;
    shape.kv_head_count = 2;
    shape.head_dim = 128;
    shape.engram_layers = {1, 6};
    scratch_ = std::make_unique<test::ScratchDir>();
    model_ = std::make_unique<test::TinyModel>(test::TinyModel::Write(shape, scratch_->path()));
  }
  static void TearDownTestSuite() {
    model_.reset();
    scratch_.reset();
  }

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    backend_ = OpenCuda(*model_, kLimits);
    ASSERT_NE(backend_, nullptr);
    for (uint32_t s = 0; s < kLimits.sequences_max; ++s) {
      prompts_.push_back(test::RandomPrompt(model_->shape(), 512, false, s + 1));
    }
  }

  // Tokens [begin, begin + count) of every sequence.
  std::vector<SequenceStep> Steps(uint32_t begin, uint32_t count, bool logits_wanted) const {
    std::vector<SequenceStep> steps;
    for (uint32_t s = 0; s < prompts_.size(); ++s) {
      steps.push_back({SequenceSlot(s), begin, std::span(prompts_[s].ids).subspan(begin, count),
                       logits_wanted});
    }
    return steps;
  }
  ReadyRows RowsOf(uint32_t begin, uint32_t count) const {
    std::vector<TokenRun> runs;
    for (const test::Prompt& prompt : prompts_) {
      TokenRun run;
      run.history = std::span(prompt.ids).first(begin);
      run.tokens = std::span(prompt.ids).subspan(begin, count);
      runs.push_back(run);
    }
    return {*model_, runs};
  }
  void ResetAll() {
    for (uint32_t s = 0; s < kLimits.sequences_max; ++s) backend_->ResetSlot(SequenceSlot(s));
  }

  static std::unique_ptr<test::ScratchDir> scratch_;
  static std::unique_ptr<test::TinyModel> model_;
  std::unique_ptr<CudaBackend> backend_;
  std::vector<test::Prompt> prompts_;
  std::vector<float> logits_;
};
std::unique_ptr<test::ScratchDir> RunAheadTest::scratch_;
std::unique_ptr<test::TinyModel> RunAheadTest::model_;

TEST_F(RunAheadTest, RowsAreAskedForWhileTheGpuComputesTheLayersBefore) {
  ReadyRows rows = RowsOf(0, 512);
  const auto steps = Steps(0, 512, false);
  ASSERT_TRUE(backend_->Forward(steps, &rows, &logits_).ok());  // loads kernels, plans products
  ExpectCuda(cudaDeviceSynchronize());
  ResetAll();
  double behind_ms = 0;
  rows.before = [&](int32_t layer) {
    if (layer != 1) return;
    const auto begin = steady_clock::now();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    behind_ms = MillisecondsSince(begin);
  };
  ASSERT_TRUE(backend_->Forward(steps, &rows, &logits_).ok());
  printf("when the rows of layer 6 were asked for, the GPU had %.2f ms of layers 0 to 5 left\n",
         behind_ms);
  EXPECT_GT(behind_ms, 0.3);
}

TEST_F(RunAheadTest, ALateLayerKeepsOnlyItselfWaiting) {
  const auto steps = Steps(0, 512, true);
  ReadyRows rows = RowsOf(0, 512);
  ASSERT_TRUE(backend_->Forward(steps, &rows, &logits_).ok());
  const std::vector<float> in_time = logits_;
  ResetAll();
  double left_ms = 1e9;
  rows.before = [&](int32_t layer) {
    if (layer != 1) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const auto begin = steady_clock::now();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    left_ms = MillisecondsSince(begin);
  };
  ASSERT_TRUE(backend_->Forward(steps, &rows, &logits_).ok());
  printf("after a wait of 100 ms for layer 6, %.3f ms of the layers before it were left\n",
         left_ms);
  EXPECT_LT(left_ms, 20.0);
  EXPECT_EQ(logits_, in_time);
}

// Prefill without logits returns before the GPU is done; the rows' memory is overwritten at once
// and used for the next step, as a ring of staging buffers would.
TEST_F(RunAheadTest, StepsInFlightNeverShareRowsThatAreStillRead) {
  constexpr uint32_t kCount = 128;
  std::vector<float> expected;
  for (const int mode : {0, 1, 2}) {  // one step after the other; in flight; the same, pinned
    ResetAll();
    std::vector<std::byte> memory(2 * (size_t{1} << 20), std::byte{0xff});
    const std::span<std::byte> all(memory);
    if (mode == 2) backend_->staging_observer()->Mapped(all);
    const CudaBackendStats before = backend_->stats();
    std::vector<ReadyRows> ready;
    for (uint32_t begin = 0; begin < 512; begin += kCount) ready.push_back(RowsOf(begin, kCount));
    double not_waited_ms = 0;
    for (uint32_t begin = 0; begin < 512; begin += kCount) {
      const bool last = begin + kCount == 512;
      ReadyRows& rows = ready[begin / kCount];
      if (mode != 0) rows.HandOutOf({all.first(memory.size() / 2), all.last(memory.size() / 2)});
      ASSERT_TRUE(backend_->Forward(Steps(begin, kCount, last || mode == 0), &rows, &logits_).ok());
      std::memset(memory.data(), 0xff, memory.size());
      if (begin + 2 * kCount == 512) {
        const auto at = steady_clock::now();
        if (mode == 1) ExpectCuda(cudaDeviceSynchronize());
        not_waited_ms = MillisecondsSince(at);
      }
    }
    if (mode == 0) expected = logits_;
    if (mode == 1) printf("steps in flight: the GPU was %.2f ms behind\n", not_waited_ms);
    EXPECT_EQ(logits_, expected) << "mode " << mode;
    const CudaBackendStats after = backend_->stats();
    EXPECT_EQ(after.row_copies_pinned - before.row_copies_pinned, mode == 2 ? 8u : 0u);
    EXPECT_EQ(after.row_copies_bounced - before.row_copies_bounced, mode == 2 ? 0u : 8u);
    if (mode == 2) backend_->staging_observer()->Unmapping(all);
  }
}

}  // namespace
}  // namespace engram::gpu
