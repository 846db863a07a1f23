// What was enqueued on streams and has not run: a GPU that does nothing until the host waits for
// it, and then only what that wait needs. So memory that is changed too early, and a wait for an
// event that is missing, give wrong numbers in every run, not in one of a thousand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

struct CUstream_st;

// An event: how often it was recorded, how many of these records have run, where the last one is.
struct CUevent_st {
  uint64_t recorded = 0;
  uint64_t done = 0;
  CUstream_st* stream = nullptr;
};

namespace engram::cuda_on_host {

// One thing to do: run `work`; or, where `event` is set and `work` is not, wait until `done` of its
// records have run.
struct Operation {
  std::function<void()> work;
  CUevent_st* event = nullptr;
  uint64_t done = 0;
};

}  // namespace engram::cuda_on_host

struct CUgraph_st {
  std::vector<engram::cuda_on_host::Operation> operations;
};
struct CUgraphExec_st : CUgraph_st {};
struct CUstream_st {
  std::deque<engram::cuda_on_host::Operation> operations;
  CUgraph_st* captured = nullptr;  // null: it is not being captured
};

namespace engram::cuda_on_host {

// Of the calling thread's device, as everything here. Null is the default stream.
void Enqueue(CUstream_st* stream, Operation operation);
void BeginCapture(CUstream_st* stream);
[[nodiscard]] CUgraph_st* EndCapture(CUstream_st* stream);
void Record(CUevent_st* event, CUstream_st* stream);
void WaitFor(CUstream_st* stream, CUevent_st* event);
// Nothing of it is left to do.
[[nodiscard]] bool Idle(CUstream_st* stream);

// Runs what is needed until then.
void RunUntil(CUevent_st* event, uint64_t done);
void RunAll(CUstream_st* stream);
void RunAllStreams();

[[nodiscard]] CUstream_st* MakeStream();
void EndStream(CUstream_st* stream);  // after its last operation has run

// Host memory that the device reads itself, so that a copy from it may be late.
// False: some of it is pinned already.
[[nodiscard]] bool Pin(const void* memory, size_t bytes);
void Unpin(const void* memory);
[[nodiscard]] bool IsPinned(const void* memory);

}  // namespace engram::cuda_on_host
