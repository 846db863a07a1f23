// Where the I/O threads of a row source spend their time, by looking many times a second: reading a
// clock at every change would cost more than some of the stages.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

#include "client/row_source.h"

namespace engram::bench {

// [FillStage] how often a thread was seen there.
using StageCounts = std::array<uint64_t, kFillStageCount>;

// Looks from its start until Stop, on a thread of its own, some 5,000 times a second.
class StageSampler {
 public:
  // `rows` must outlive Stop.
  explicit StageSampler(const RowSource* rows);
  ~StageSampler();
  StageSampler(const StageSampler&) = delete;
  StageSampler& operator=(const StageSampler&) = delete;

  // What was seen. Once.
  [[nodiscard]] StageCounts Stop();

 private:
  void Run();

  const RowSource* const rows_;
  StageCounts counts_{};  // the thread's own until it has ended
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace engram::bench
