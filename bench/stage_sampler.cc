#include "bench/stage_sampler.h"

#include <chrono>

namespace engram::bench {
namespace {
constexpr std::chrono::microseconds kPause{200};
}  // namespace

StageSampler::StageSampler(const RowSource* rows) : rows_(rows), thread_([this] { Run(); }) {}

StageSampler::~StageSampler() {
  if (thread_.joinable()) (void)Stop();
}

StageCounts StageSampler::Stop() {
  stop_ = true;
  thread_.join();
  return counts_;
}

void StageSampler::Run() {
  while (!stop_.load(std::memory_order_relaxed)) {
    const FillStages stages = rows_->Stages();
    for (size_t i = 0; i < stages.size(); ++i) counts_[i] += stages[i];
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace engram::bench
