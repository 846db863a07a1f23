#include "model_worker/cuda/layer_segments.h"

namespace engram::gpu {

std::vector<LayerSegment> PlanSegments(std::span<const int32_t> engram_index, bool engram_on) {
  std::vector<LayerSegment> segments(1);
  segments.front().first = true;
  const auto layers = static_cast<int32_t>(engram_index.size());
  for (int32_t layer = 0; layer < layers; ++layer) {
    const int32_t index = engram_index[static_cast<size_t>(layer)];
    if (engram_on && index >= 0) {
      LayerSegment next;
      next.engram_index = index;
      next.begin = layer;
      segments.push_back(next);
    }
    segments.back().end = layer + 1;
  }
  segments.back().last = true;
  return segments;
}

}  // namespace engram::gpu
