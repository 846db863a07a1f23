#include "tests/support/thread_ranks.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "engram/base/check.h"

namespace engram::test {
namespace {

constexpr std::chrono::minutes kPatience{1};

// What the ranks share.
class Meeting {
 public:
  explicit Meeting(uint32_t count) : posted(count), messages(count), count_(count) {}

  // Returns when every rank has called it.
  void Meet() {
    std::unique_lock lock(mutex);
    const uint64_t round = round_;
    if (++arrived_ == count_) {
      arrived_ = 0;
      ++round_;
      changed.notify_all();
      return;
    }
    ENGRAM_CHECK(changed.wait_for(lock, kPatience, [&] { return round_ != round; }));
  }

  std::mutex mutex;
  std::condition_variable changed;
  // Between two meetings: what each rank shows the others.
  std::vector<std::span<const std::byte>> posted;
  std::vector<std::deque<std::vector<std::byte>>> messages;  // guarded by mutex; to each rank

 private:
  const uint32_t count_;
  uint32_t arrived_ = 0;
  uint64_t round_ = 0;
};

class ThreadCollective final : public Collective {
 public:
  ThreadCollective(Meeting* meeting, uint32_t rank, uint32_t count)
      : meeting_(meeting), rank_(rank), count_(count) {}

  [[nodiscard]] uint32_t rank() const override { return rank_; }
  [[nodiscard]] uint32_t rank_count() const override { return count_; }

  [[nodiscard]] Status AllReduce(std::span<float> values) override {
    meeting_->posted[rank_] = std::as_bytes(values);
    meeting_->Meet();
    std::vector<std::vector<float>> sums;
    for (const std::span<const std::byte> of_rank : meeting_->posted) {
      ENGRAM_CHECK(of_rank.size() == values.size_bytes());
      sums.emplace_back(values.size());
      std::memcpy(sums.back().data(), of_rank.data(), of_rank.size());
    }
    for (; sums.size() > 1; sums.resize(sums.size() / 2)) {
      for (size_t i = 0; i < sums.size() / 2; ++i) {
        std::vector<float> sum = sums[2 * i];
        for (size_t v = 0; v < sum.size(); ++v) sum[v] += sums[2 * i + 1][v];
        sums[i] = std::move(sum);
      }
    }
    meeting_->Meet();  // everyone has read
    std::copy(sums[0].begin(), sums[0].end(), values.begin());
    ++stats_.reduces;
    return {};
  }

  [[nodiscard]] Status AllGather(std::span<const std::span<std::byte>> blocks) override {
    return Exchange(blocks, /*everywhere=*/true);
  }
  [[nodiscard]] Status Gather(std::span<const std::span<std::byte>> blocks) override {
    return Exchange(blocks, /*everywhere=*/false);
  }

  [[nodiscard]] Status Send(std::span<const std::byte> message) override {
    ENGRAM_CHECK(rank_ == 0);
    {
      const std::lock_guard lock(meeting_->mutex);
      for (uint32_t to = 1; to < count_; ++to) {
        meeting_->messages[to].emplace_back(message.begin(), message.end());
      }
    }
    meeting_->changed.notify_all();
    return {};
  }
  [[nodiscard]] Status Receive(std::vector<std::byte>* message) override {
    std::unique_lock lock(meeting_->mutex);
    auto& messages = meeting_->messages[rank_];
    ENGRAM_CHECK(meeting_->changed.wait_for(lock, kPatience, [&] { return !messages.empty(); }));
    *message = std::move(messages.front());
    messages.pop_front();
    return {};
  }

  void SetPatience(std::chrono::milliseconds /*patience*/) override {}
  [[nodiscard]] CollectiveStats stats() const override { return stats_; }
  [[noreturn]] void Abort(const Status& why) override {
    std::fprintf(stderr, "rank %u: %s\n", rank_, why.ToString().c_str());
    std::abort();
  }

 private:
  [[nodiscard]] Status Exchange(std::span<const std::span<std::byte>> blocks, bool everywhere) {
    ENGRAM_CHECK(blocks.size() == count_);
    meeting_->posted[rank_] = blocks[rank_];
    meeting_->Meet();
    for (uint32_t from = 0; from < count_; ++from) {
      if (from == rank_ || (!everywhere && rank_ != 0)) continue;
      const std::span<const std::byte> block = meeting_->posted[from];
      ENGRAM_CHECK(block.size() == blocks[from].size());
      std::copy(block.begin(), block.end(), blocks[from].begin());
    }
    meeting_->Meet();
    ++stats_.gathers;
    return {};
  }

  Meeting* const meeting_;
  const uint32_t rank_;
  const uint32_t count_;
  CollectiveStats stats_;
};

}  // namespace

void RunRanks(uint32_t rank_count, const std::function<void(Collective* collective)>& body) {
  Meeting meeting(rank_count);
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < rank_count; ++rank) {
    threads.emplace_back([&meeting, &body, rank, rank_count] {
      ThreadCollective collective(&meeting, rank, rank_count);
      body(&collective);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace engram::test
