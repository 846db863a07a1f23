// Captured graphs, by what they compute.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>

#include <cuda_runtime_api.h>

#include "engram/base/status.h"
#include "model_worker/cuda/device_memory.h"

namespace engram::gpu {

// Two segments with the same key enqueue the same kernels with the same arguments.
struct GraphKey {
  uint32_t rows = 0;
  uint32_t split_count = 0;
  uint32_t split_tokens = 0;
  int32_t segment = 0;
  bool engram_on = false;
  friend auto operator<=>(const GraphKey&, const GraphKey&) = default;
};

// How many there are is bounded by the key: row buckets, and powers of two. Thread-compatible.
class GraphCache {
 public:
  // Runs what `enqueue` puts on `stream`: as it is the first time that a key comes (which also
  // loads its kernels, and a kind of step that comes once costs no capture), captured the second
  // time, and as the captured graph from then on. ERRORS: those of `enqueue`; kInternal,
  // kResourceExhausted.
  [[nodiscard]] Status Run(const GraphKey& key, cudaStream_t stream,
                           const std::function<Status()>& enqueue);

  [[nodiscard]] uint64_t captured_count() const { return captured_count_; }
  [[nodiscard]] uint64_t launched_count() const { return launched_count_; }

 private:
  [[nodiscard]] Result<Graph> Capture(cudaStream_t stream, const std::function<Status()>& enqueue);

  std::map<GraphKey, Graph> graphs_;  // null: seen once
  uint64_t captured_count_ = 0;
  uint64_t launched_count_ = 0;
};

}  // namespace engram::gpu
