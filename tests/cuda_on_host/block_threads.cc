#include "tests/cuda_on_host/block_threads.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engram/base/check.h"
#include "tests/cuda_on_host/stack_switch.h"

namespace engram::cuda_on_host {
namespace {

constexpr unsigned kWarpThreads = 32;
constexpr size_t kStackBytes = 64 << 10;

// Kept from block to block: fresh memory costs more than what most blocks do.
std::byte* StackOf(unsigned thread) {
  static thread_local std::vector<std::unique_ptr<std::byte[]>> stacks;
  while (stacks.size() <= thread) {
    stacks.push_back(std::make_unique_for_overwrite<std::byte[]>(kStackBytes));
  }
  return stacks[thread].get();
}

class Block {
 public:
  Block(unsigned threads, const std::function<void()>& kernel,
        const std::function<void(unsigned)>& on_switch)
      : kernel_(kernel), on_switch_(on_switch), fibers_(threads), block_left_(threads) {
    warps_.resize((threads + kWarpThreads - 1) / kWarpThreads);
    for (unsigned t = 0; t < threads; ++t) {
      PrepareStack(&fibers_[t], StackOf(t), kStackBytes, &Block::RunThread);
      ++warps_[t / kWarpThreads].left;
      ready_.push_back(t);
    }
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  static thread_local Block* running;

  void Run() {
    running = this;
    while (!ready_.empty()) {
      current_ = ready_.front();
      ready_.pop_front();
      on_switch_(current_);
      SwitchStack(&scheduler_, &fibers_[current_], false);
    }
    running = nullptr;
    // Else threads wait at a barrier that the others passed by.
    ENGRAM_CHECK(block_left_ == 0);
  }

  void AwaitBlock() {
    block_waiting_.push_back(current_);
    ReleaseBlock();
    Yield();
  }
  void AwaitWarp() {
    Warp& warp = warps_[current_ / kWarpThreads];
    warp.waiting.push_back(current_);
    ReleaseWarp(&warp);
    Yield();
  }
  [[nodiscard]] unsigned lane() const { return current_ % kWarpThreads; }
  [[nodiscard]] std::byte* share_places() { return warps_[current_ / kWarpThreads].shared.data(); }

 private:
  struct Warp {
    unsigned left = 0;
    std::vector<unsigned> waiting;
    std::array<std::byte, kShareBytes * kWarpThreads> shared{};
  };

  static void RunThread() {
    EntryOnStack(&running->scheduler_);
    running->kernel_();
    running->EndThread();
  }
  void EndThread() {
    Warp& warp = warps_[current_ / kWarpThreads];
    --warp.left;
    --block_left_;
    ReleaseWarp(&warp);
    ReleaseBlock();
    SwitchStack(&fibers_[current_], &scheduler_, true);
  }
  void Yield() { SwitchStack(&fibers_[current_], &scheduler_, false); }
  void ReleaseBlock() {
    if (block_waiting_.size() == block_left_) MakeReady(&block_waiting_);
  }
  void ReleaseWarp(Warp* warp) {
    if (warp->waiting.size() == warp->left) MakeReady(&warp->waiting);
  }
  void MakeReady(std::vector<unsigned>* threads) {
    ready_.insert(ready_.end(), threads->begin(), threads->end());
    threads->clear();
  }

  const std::function<void()>& kernel_;
  const std::function<void(unsigned)>& on_switch_;
  std::vector<StackPlace> fibers_;  // of the threads
  StackPlace scheduler_;
  std::vector<Warp> warps_;
  std::vector<unsigned> block_waiting_;
  std::deque<unsigned> ready_;
  size_t block_left_ = 0;
  unsigned current_ = 0;
};

thread_local Block* Block::running = nullptr;

}  // namespace

void RunBlock(unsigned threads, const std::function<void()>& kernel,
              const std::function<void(unsigned)>& on_switch) {
  Block(threads, kernel, on_switch).Run();
}

void AwaitBlock() { Block::running->AwaitBlock(); }
unsigned Lane() { return Block::running->lane(); }
std::byte* SharePlaces() { return Block::running->share_places(); }
void AwaitWarp() { Block::running->AwaitWarp(); }

}  // namespace engram::cuda_on_host
