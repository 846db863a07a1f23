#include "model_worker/cuda/row_staging.h"

#include <array>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/gpu/gpu_test.h"

namespace engram::gpu {
namespace {

constexpr size_t kBytes = 1 << 20;

void Sleep(void*) { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

class RowStagingTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    pinned_ = std::make_unique<PinnedStaging>(0);
    auto staging = RowStaging::Create({kBytes, 64, pinned_.get()});
    ASSERT_TRUE(staging.has_value()) << staging.error().ToString();
    staging_ = *std::move(staging);
    auto stream = MakeStream();
    ASSERT_TRUE(stream.has_value());
    stream_ = *std::move(stream);
  }

  [[nodiscard]] Result<RowStaging::Staged> Stage(const LayerRows& rows) {
    return staging_->Stage({&rows, 1}, stream_.get());
  }

  std::unique_ptr<PinnedStaging> pinned_;
  std::unique_ptr<RowStaging> staging_;
  Stream stream_;
};

// The GPU is slow to read each buffer, the host is quick to fill the next ones, and overwrites its
// own memory as soon as it may.
TEST_F(RowStagingTest, ABufferThatIsStillReadIsNotFilledAgain) {
  constexpr int kLayers = 12;
  for (const bool pin : {false, true}) {
    std::vector<std::byte> memory(2 * kBytes);
    const std::span<std::byte> rows(memory.data(), kBytes);
    if (pin) pinned_->Mapped(memory);
    auto results = Poisoned<std::byte>(kBytes * kLayers);
    const uint64_t direct_before = staging_->pinned_count();
    for (int layer = 0; layer < kLayers; ++layer) {
      std::memset(rows.data(), layer + 1, rows.size());
      const auto staged = Stage({rows, {}, 1});
      ASSERT_TRUE(staged.has_value()) << staged.error().ToString();
      EXPECT_EQ(staged->dead, nullptr);
      ExpectCuda(cudaLaunchHostFunc(stream_.get(), Sleep, nullptr));
      ExpectCuda(cudaMemcpyAsync(results.data() + kBytes * static_cast<size_t>(layer), staged->rows,
                                 kBytes, cudaMemcpyDeviceToDevice, stream_.get()));
      ASSERT_TRUE(staging_->Consumed(*staged, stream_.get()).ok());
      // Bounced rows were taken already; pinned ones are being read.
      if (pin) {
        ASSERT_TRUE(staging_->FinishCopies().ok());
      }
    }
    ExpectCuda(cudaStreamSynchronize(stream_.get()));
    const auto got = Download(results);
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::byte wanted = static_cast<std::byte>(layer + 1);
      for (size_t i = 0; i < kBytes; ++i) {
        ASSERT_EQ(got[kBytes * static_cast<size_t>(layer) + i], wanted) << layer << " " << i;
      }
    }
    EXPECT_EQ(staging_->pinned_count() - direct_before, pin ? kLayers : 0);
    if (pin) pinned_->Unmapping(memory);
    EXPECT_FALSE(pinned_->Contains(rows));
  }
}

TEST_F(RowStagingTest, MemoryThatCannotBePinnedIsCountedAndItsRowsAreBounced) {
  // Pinned already, so not once more.
  std::vector<std::byte> memory(kBytes);
  PinnedStaging first(0);
  first.Mapped(memory);
  EXPECT_EQ(first.unpinned_bytes(), 0u);
  EXPECT_EQ(first.unpinned_why(), "");
  pinned_->Mapped(memory);
  EXPECT_EQ(pinned_->unpinned_bytes(), kBytes);
  EXPECT_NE(pinned_->unpinned_why(), "");
  EXPECT_FALSE(pinned_->Contains(memory));
  pinned_->Unmapping(memory);
  first.Unmapping(memory);
}

// With as many buffers as are free, the host goes on while the GPU has not begun.
TEST_F(RowStagingTest, TheHostRunsAheadOfTheGpu) {
  std::vector<std::byte> memory(kBytes, std::byte{1});
  ExpectCuda(cudaLaunchHostFunc(stream_.get(), Sleep, nullptr));
  const auto begin = std::chrono::steady_clock::now();
  for (uint32_t i = 0; i < RowStaging::kBuffers; ++i) {
    const auto staged = Stage({memory, {}, 1});
    ASSERT_TRUE(staged.has_value());
    ASSERT_TRUE(staging_->Consumed(*staged, stream_.get()).ok());
  }
  ASSERT_TRUE(staging_->FinishCopies().ok());
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(cudaStreamQuery(stream_.get()), cudaErrorNotReady)
      << "the copies took " << std::chrono::duration<double, std::milli>(took).count()
      << " ms: longer than the GPU was held up";
  ExpectCuda(cudaStreamSynchronize(stream_.get()));
}

TEST_F(RowStagingTest, DeadMasksTravelWithTheirRows) {
  std::vector<std::byte> memory(64, std::byte{1});
  std::vector<uint8_t> dead(64, 0);
  for (int round = 0; round < 5; ++round) {
    std::fill(dead.begin(), dead.end(), static_cast<uint8_t>(round));
    const auto staged = Stage({memory, dead, 64});
    ASSERT_TRUE(staged.has_value());
    std::fill(dead.begin(), dead.end(), uint8_t{99});
    ASSERT_NE(staged->dead, nullptr);
    std::vector<uint8_t> got(64);
    ExpectCuda(
        cudaMemcpyAsync(got.data(), staged->dead, 64, cudaMemcpyDeviceToHost, stream_.get()));
    ASSERT_TRUE(staging_->Consumed(*staged, stream_.get()).ok());
    ExpectCuda(cudaStreamSynchronize(stream_.get()));
    EXPECT_EQ(got, std::vector<uint8_t>(64, static_cast<uint8_t>(round)));
  }
}

// A step's prefill and decode tokens were read by different prefetches: pinned memory, memory that
// is not, and pieces with and without a mask.
TEST_F(RowStagingTest, PiecesLieOneBehindTheOther) {
  std::vector<std::byte> pinned(40 * 8), plain(24 * 8);
  std::fill(pinned.begin(), pinned.end(), std::byte{1});
  std::fill(plain.begin(), plain.end(), std::byte{2});
  const std::vector<uint8_t> dead(24, 7);
  pinned_->Mapped(pinned);
  const std::array<LayerRows, 3> pieces = {LayerRows{std::span(pinned).first(16 * 8), {}, 16},
                                           LayerRows{plain, dead, 24},
                                           LayerRows{std::span(pinned).last(24 * 8), {}, 24}};
  for (int round = 0; round < 5; ++round) {
    const auto staged = staging_->Stage(pieces, stream_.get());
    ASSERT_TRUE(staged.has_value()) << staged.error().ToString();
    ASSERT_NE(staged->dead, nullptr);
    std::vector<std::byte> rows(64 * 8);
    std::vector<uint8_t> mask(64);
    ExpectCuda(cudaMemcpyAsync(rows.data(), staged->rows, rows.size(), cudaMemcpyDeviceToHost,
                               stream_.get()));
    ExpectCuda(cudaMemcpyAsync(mask.data(), staged->dead, mask.size(), cudaMemcpyDeviceToHost,
                               stream_.get()));
    ASSERT_TRUE(staging_->Consumed(*staged, stream_.get()).ok());
    ExpectCuda(cudaStreamSynchronize(stream_.get()));
    for (size_t token = 0; token < 64; ++token) {
      const bool middle = token >= 16 && token < 40;
      ASSERT_EQ(mask[token], middle ? 7 : 0) << token;
      ASSERT_EQ(rows[token * 8], std::byte{middle ? uint8_t{2} : uint8_t{1}}) << token;
      ASSERT_EQ(rows[token * 8 + 7], rows[token * 8]) << token;
    }
  }
  EXPECT_EQ(staging_->pinned_count(), 10u);
  EXPECT_EQ(staging_->bounced_count(), 5u);
  pinned_->Unmapping(pinned);
}

}  // namespace
}  // namespace engram::gpu
