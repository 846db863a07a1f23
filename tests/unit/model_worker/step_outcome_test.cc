// Which errors of a step the ranks may go on after.
#include "model_worker/ranks/step_outcome.h"

#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

#include "model_worker/step_check.h"

namespace engram {
namespace {

const Status kOutOfMemory(StatusCode::kResourceExhausted, "CUDA, making a graph: out of memory");
const Status kNoRows(StatusCode::kResourceExhausted, "rank 1 of 2: the row source is full");

TEST(StepOutcomeTest, MemoryThatRanOutWhileComputingIsNotARefusal) {
  const Status status = WhileComputing(kOutOfMemory, Status());
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_NE(status.message().find(kOutOfMemory.message()), std::string::npos);
  // Rows failed first, then memory ran out.
  EXPECT_EQ(WhileComputing(kOutOfMemory, kNoRows).code(), StatusCode::kInternal);
}

TEST(StepOutcomeTest, TheRowsErrorAndAllOtherErrorsStayAsTheyAre) {
  EXPECT_EQ(WhileComputing(kNoRows, kNoRows), kNoRows);
  const Status late(StatusCode::kDeadlineExceeded, "late");
  EXPECT_EQ(WhileComputing(late, Status()), late);
  EXPECT_EQ(WhileComputing(Status(), Status()), Status());
}

// One that ends the test's process with a number of its own.
class EndingCollective final : public Collective {
 public:
  [[nodiscard]] uint32_t rank() const override { return 1; }
  [[nodiscard]] uint32_t rank_count() const override { return 2; }
  [[nodiscard]] Status AllReduce(std::span<float>) override { return {}; }
  [[nodiscard]] Status AllGather(std::span<const std::span<std::byte>>) override { return {}; }
  [[nodiscard]] Status Gather(std::span<const std::span<std::byte>>) override { return {}; }
  [[nodiscard]] Status Send(std::span<const std::byte>) override { return {}; }
  [[nodiscard]] Status Receive(std::vector<std::byte>*) override { return {}; }
  void SetPatience(std::chrono::milliseconds) override {}
  [[nodiscard]] CollectiveStats stats() const override { return {}; }
  [[noreturn]] void Abort(const Status& why) override {
    std::fputs(why.ToString().c_str(), stderr);
    std::_Exit(7);
  }
};

TEST(StepOutcomeTest, RanksGoOnAfterARefusalAndAfterRowsThatAllMissed) {
  EndingCollective ranks;
  const Status gone(StatusCode::kUnavailable, "rank 0 of 2: node m2 is gone");
  CheckStepOutcome(&ranks, Status(), Status());
  CheckStepOutcome(&ranks, Status(StatusCode::kInvalidArgument, "a bad step"), Status());
  CheckStepOutcome(&ranks, Status(StatusCode::kResourceExhausted, "a full KV cache"), Status());
  CheckStepOutcome(&ranks, gone, gone);
  CheckStepOutcome(&ranks, WhileComputing(kNoRows, kNoRows), kNoRows);
}

TEST(StepOutcomeDeathTest, ARankWhoseMemoryRanOutEndsThemAll) {
  EndingCollective ranks;
  EXPECT_EXIT(CheckStepOutcome(&ranks, WhileComputing(kOutOfMemory, Status()), Status()),
              testing::ExitedWithCode(7), "in the middle of a step.*making a graph");
  EXPECT_EXIT(CheckStepOutcome(&ranks, Status(StatusCode::kUnavailable, "this rank's"), Status()),
              testing::ExitedWithCode(7), "this rank's");
}

}  // namespace
}  // namespace engram
