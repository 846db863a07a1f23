#include "model_worker/cuda/graph_cache.h"

#include <utility>

namespace engram::gpu {

Result<Graph> GraphCache::Capture(cudaStream_t stream, const std::function<Status()>& enqueue) {
  ENGRAM_TRY(CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                        "beginning a graph"));
  const Status enqueued = enqueue();
  cudaGraph_t graph = nullptr;
  // Also after an error: the stream must leave capture mode.
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  if (!enqueued.ok() || ended != cudaSuccess) {
    (void)cudaGetLastError();
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    return Error(enqueued.ok() ? CudaStatus(ended, "capturing a graph") : enqueued);
  }
  cudaGraphExec_t made = nullptr;
  const cudaError_t instantiated = cudaGraphInstantiate(&made, graph, 0);
  (void)cudaGraphDestroy(graph);
  ENGRAM_TRY(CudaStatus(instantiated, "making a graph"));
  ++captured_count_;
  return Graph(made);
}

Status GraphCache::Run(const GraphKey& key, cudaStream_t stream,
                       const std::function<Status()>& enqueue) {
  const auto [found, is_new] = graphs_.try_emplace(key);
  if (is_new) return enqueue();
  if (found->second == nullptr) {
    Result<Graph> graph = Capture(stream, enqueue);
    if (!graph.has_value()) return graph.error();
    found->second = *std::move(graph);
  }
  ++launched_count_;
  return CudaStatus(cudaGraphLaunch(found->second.get(), stream), "launching a graph");
}

}  // namespace engram::gpu
