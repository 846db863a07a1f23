#include "tests/cuda_on_host/device_queue.h"

#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "engram/base/check.h"

namespace engram::cuda_on_host {
namespace {

struct Device {
  CUstream_st default_stream;
  std::set<CUstream_st*> streams{&default_stream};
  std::map<const std::byte*, size_t> pinned;  // begin -> bytes
};

Device& TheDevice() {
  static thread_local Device device;
  return device;
}

CUstream_st* Real(CUstream_st* stream) {
  return stream == nullptr ? &TheDevice().default_stream : stream;
}

void RunFirst(CUstream_st* stream) {
  ENGRAM_CHECK(!stream->operations.empty());
  const Operation operation = std::move(stream->operations.front());
  stream->operations.pop_front();
  if (operation.work) {
    operation.work();
  } else {
    RunUntil(operation.event, operation.done);
  }
}

}  // namespace

void Enqueue(CUstream_st* stream, Operation operation) {
  CUstream_st* real = Real(stream);
  if (real->captured != nullptr) {
    real->captured->operations.push_back(std::move(operation));
  } else {
    real->operations.push_back(std::move(operation));
  }
}

void BeginCapture(CUstream_st* stream) {
  ENGRAM_CHECK(Real(stream)->captured == nullptr);
  Real(stream)->captured = new CUgraph_st;
}

CUgraph_st* EndCapture(CUstream_st* stream) {
  return std::exchange(Real(stream)->captured, nullptr);
}

void Record(CUevent_st* event, CUstream_st* stream) {
  event->stream = Real(stream);
  const uint64_t record = ++event->recorded;
  Enqueue(stream, {[event, record] { event->done = record; }});
}

void WaitFor(CUstream_st* stream, CUevent_st* event) {
  if (event->recorded > event->done) Enqueue(stream, {{}, event, event->recorded});
}

bool Idle(CUstream_st* stream) { return Real(stream)->operations.empty(); }

void RunUntil(CUevent_st* event, uint64_t done) {
  while (event->done < done) RunFirst(event->stream);
}

void RunAll(CUstream_st* stream) {
  while (!Idle(stream)) RunFirst(Real(stream));
}

void RunAllStreams() {
  for (CUstream_st* stream : TheDevice().streams) RunAll(stream);
}

CUstream_st* MakeStream() {
  auto* stream = new CUstream_st;
  TheDevice().streams.insert(stream);
  return stream;
}

void EndStream(CUstream_st* stream) {
  RunAll(stream);
  TheDevice().streams.erase(stream);
  delete stream;
}

bool Pin(const void* memory, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(memory);
  auto& pinned = TheDevice().pinned;
  const auto after = pinned.lower_bound(begin + bytes);
  if (after != pinned.begin()) {
    const auto& [other, other_bytes] = *std::prev(after);
    if (other + other_bytes > begin) return false;
  }
  pinned[begin] = bytes;
  return true;
}

void Unpin(const void* memory) {
  ENGRAM_CHECK(TheDevice().pinned.erase(static_cast<const std::byte*>(memory)) == 1);
}

bool IsPinned(const void* memory) {
  const auto& pinned = TheDevice().pinned;
  const auto after = pinned.upper_bound(static_cast<const std::byte*>(memory));
  if (after == pinned.begin()) return false;
  const auto& [begin, bytes] = *std::prev(after);
  return static_cast<const std::byte*>(memory) < begin + bytes;
}

}  // namespace engram::cuda_on_host
