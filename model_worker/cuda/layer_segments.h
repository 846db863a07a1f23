// A step as segments that run without the host: between them it awaits an Engram layer's rows. Host
// logic, no CUDA.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace engram::gpu {

// [fusion of an Engram layer] [layers begin .. end-1]. One captured graph each.
struct LayerSegment {
  int32_t engram_index = -1;  // fused before layer `begin`; -1 = none
  int32_t begin = 0;
  int32_t end = 0;
  bool first = false;  // starts with the step's inputs and the embedding
  bool last = false;   // ends with the logits
  friend bool operator==(const LayerSegment&, const LayerSegment&) = default;
};

// `engram_index` [layers]: the Engram layer that precedes each layer, or -1; ignored where Engram
// is off. An Engram layer before layer 0 leaves a first segment without layers: the embedding runs
// before its rows are asked for.
[[nodiscard]] std::vector<LayerSegment> PlanSegments(std::span<const int32_t> engram_index,
                                                     bool engram_on);

}  // namespace engram::gpu
