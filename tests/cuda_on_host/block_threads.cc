#include "tests/cuda_on_host/block_threads.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include <ucontext.h>

#include "engram/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace engram::cuda_on_host {
namespace {

constexpr unsigned kWarpThreads = 32;
constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kExchangeBytes = 16;

// A stack and where it was left, with what the sanitizers must be told when it is changed.
struct Fiber {
  ucontext_t context{};
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASan's
  void* tsan = nullptr;        // TSan's
};

void Switch(Fiber* from, Fiber* to, bool from_ends) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from->fake_stack, to->stack,
                                 to->stack_bytes);
#else
  (void)from_ends;
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to->tsan, 0);
#endif
  ENGRAM_CHECK(swapcontext(&from->context, &to->context) == 0);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

class Block {
 public:
  Block(unsigned threads, const std::function<void()>& kernel,
        const std::function<void(unsigned)>& on_switch)
      : kernel_(kernel), on_switch_(on_switch), fibers_(threads), block_left_(threads) {
    warps_.resize((threads + kWarpThreads - 1) / kWarpThreads);
    stacks_ = std::make_unique_for_overwrite<std::byte[]>(threads * kStackBytes);
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& fiber = fibers_[t];
      fiber.stack = stacks_.get() + t * kStackBytes;
      fiber.stack_bytes = kStackBytes;
      ENGRAM_CHECK(getcontext(&fiber.context) == 0);
      fiber.context.uc_stack.ss_sp = stacks_.get() + t * kStackBytes;
      fiber.context.uc_stack.ss_size = kStackBytes;
      makecontext(&fiber.context, &Block::RunThread, 0);
#if defined(__SANITIZE_THREAD__)
      fiber.tsan = __tsan_create_fiber(0);
#endif
      ++warps_[t / kWarpThreads].left;
      ready_.push_back(t);
    }
#if defined(__SANITIZE_THREAD__)
    scheduler_.tsan = __tsan_get_current_fiber();
#endif
  }
  ~Block() {
#if defined(__SANITIZE_THREAD__)
    for (Fiber& fiber : fibers_) __tsan_destroy_fiber(fiber.tsan);
#endif
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  static Block* running;

  void Run() {
    running = this;
    while (!ready_.empty()) {
      current_ = ready_.front();
      ready_.pop_front();
      on_switch_(current_);
      Switch(&scheduler_, &fibers_[current_], false);
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
  [[nodiscard]] void* exchange_place(unsigned lane) {
    return warps_[current_ / kWarpThreads].exchange[lane].data();
  }

 private:
  struct Warp {
    unsigned left = 0;
    std::vector<unsigned> waiting;
    std::array<std::array<std::byte, kExchangeBytes>, kWarpThreads> exchange{};
  };

  static void RunThread() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &running->scheduler_.stack,
                                    &running->scheduler_.stack_bytes);
#endif
    running->kernel_();
    running->EndThread();
  }
  void EndThread() {
    Warp& warp = warps_[current_ / kWarpThreads];
    --warp.left;
    --block_left_;
    ReleaseWarp(&warp);
    ReleaseBlock();
    Switch(&fibers_[current_], &scheduler_, true);
  }
  void Yield() { Switch(&fibers_[current_], &scheduler_, false); }
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
  std::unique_ptr<std::byte[]> stacks_;
  std::vector<Fiber> fibers_;
  Fiber scheduler_;
  std::vector<Warp> warps_;
  std::vector<unsigned> block_waiting_;
  std::deque<unsigned> ready_;
  size_t block_left_ = 0;
  unsigned current_ = 0;
};

Block* Block::running = nullptr;

}  // namespace

void RunBlock(unsigned threads, const std::function<void()>& kernel,
              const std::function<void(unsigned)>& on_switch) {
  Block(threads, kernel, on_switch).Run();
}

void AwaitBlock() { Block::running->AwaitBlock(); }
unsigned Lane() { return Block::running->lane(); }
void* ExchangePlace(unsigned lane) { return Block::running->exchange_place(lane); }
void AwaitWarp(unsigned mask) {
  ENGRAM_CHECK(mask == 0xffffffffu);
  Block::running->AwaitWarp();
}

}  // namespace engram::cuda_on_host
