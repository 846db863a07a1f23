// Stacks to run functions on, and the switch between them. Without system calls, since a kernel's
// threads change places a million times a second.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace engram::cuda_on_host {

// Where a flow of control was left, with what ASan must be told of its stack.
struct StackPlace {
#if defined(__x86_64__)
  void* top = nullptr;
#else
  ucontext_t context{};
#endif
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
};

// `place` becomes the beginning of entry(), on `stack`. entry must begin with EntryOnStack and
// never return.
void PrepareStack(StackPlace* place, std::byte* stack, size_t bytes, void (*entry)());
// Notes where the first stack is, of the flow that came here.
void EntryOnStack(StackPlace* from);
// Goes on at `to`; returns when somebody switches back.
//   from_ends  nobody will
void SwitchStack(StackPlace* from, StackPlace* to, bool from_ends);

}  // namespace engram::cuda_on_host
