#include "tests/cuda_on_host/stack_switch.h"

#include <cstdint>

#include "engram/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves what a function must keep (System V ABI), changes stacks, restores.
extern "C" void engram_switch_stack(void** from_top, void* to_top);
asm(R"(
.text
.type engram_switch_stack, @function
engram_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size engram_switch_stack, .-engram_switch_stack
)");
#endif

namespace engram::cuda_on_host {

void PrepareStack(StackPlace* place, std::byte* stack, size_t bytes, void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  // What the frames of the last user left.
  __asan_unpoison_memory_region(stack, bytes);
#endif
  place->stack = stack;
  place->stack_bytes = bytes;
#if defined(__x86_64__)
  // As if entry had been called: its return address, unused, at 8 modulo 16, and below that what
  // engram_switch_stack takes back: six registers and where to go.
  auto* end = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15});
  *--end = nullptr;
  *--end = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--end = nullptr;
  place->top = end;
#else
  ENGRAM_CHECK(getcontext(&place->context) == 0);
  place->context.uc_stack.ss_sp = stack;
  place->context.uc_stack.ss_size = bytes;
  makecontext(&place->context, entry, 0);
#endif
}

void EntryOnStack([[maybe_unused]] StackPlace* from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &from->stack, &from->stack_bytes);
#endif
}

void SwitchStack(StackPlace* from, StackPlace* to, [[maybe_unused]] bool from_ends) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(from_ends ? nullptr : &from->fake_stack, to->stack,
                                 to->stack_bytes);
#endif
#if defined(__x86_64__)
  engram_switch_stack(&from->top, to->top);
#else
  ENGRAM_CHECK(swapcontext(&from->context, &to->context) == 0);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

}  // namespace engram::cuda_on_host
