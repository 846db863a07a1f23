// What the GPU must know of a step, as one array of int32 that travels in one copy. Host logic, no
// CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model_worker/backend.h"
#include "model_worker/cuda/kv_pages.h"
#include "model_worker/cuda/launch_shape.h"

namespace engram::gpu {

// Query tokens of one tile of prefill attention.
inline constexpr uint32_t kTileTokens = 64;
// Decode steps of up to this many sequences are made uniform, and captured as graphs.
inline constexpr uint32_t kUniformRowsMax = 512;

// Lengths of the arrays, padding included.
struct StepCounts {
  uint32_t tokens = 0;  // real ones
  uint32_t rows = 0;    // tokens and padding
  uint32_t parts = 0;   // sequences
  uint32_t decodes = 0;
  uint32_t tiles = 0;
  uint32_t logits = 0;  // rows of logits, padding included
  uint32_t logits_wanted = 0;
  uint32_t pages = 0;  // page table entries that change
  // Every sequence has one token and some logits are wanted: all counts follow from `rows`, so one
  // graph serves every such step of a bucket. What the numbers are does not depend on graphs being
  // used.
  bool uniform_decode = false;
  DecodeSplits splits;
  friend bool operator==(const StepCounts&, const StepCounts&) = default;
};

[[nodiscard]] StepCounts CountStep(std::span<const SequenceStep> steps, size_t page_entries,
                                   uint32_t kv_heads);

// Where each array starts, in int32 units. Padding has -1 everywhere but in lengths, which are 0.
struct StepOffsets {
  size_t tokens = 0;        // [rows] token ids
  size_t positions = 0;     // [rows] in the sequence
  size_t slots = 0;         // [rows] sequence slots
  size_t row_parts = 0;     // [rows] places in the part arrays
  size_t part_slots = 0;    // [parts]
  size_t part_begins = 0;   // [parts] first row
  size_t part_lengths = 0;  // [parts] rows
  size_t decode_rows = 0;   // [decodes] rows that are a whole sequence's step of one token
  size_t tile_rows = 0;     // [tiles] first row, of the other sequences
  size_t tile_lengths = 0;  // [tiles] rows, 1 to kTileTokens
  size_t logit_rows = 0;    // [logits]
  size_t page_indices = 0;  // [pages]
  size_t page_values = 0;   // [pages]
  size_t int_count = 0;     // of all
};
[[nodiscard]] StepOffsets PlaceStep(const StepCounts& counts);

// The most int32 that a step within `limits` takes.
[[nodiscard]] size_t StepIntsMax(const Backend::Limits& limits);

// Writes the arrays: `out` [PlaceStep(counts).int_count].
void FillStep(std::span<const SequenceStep> steps, std::span<const PageEntry> entries,
              const StepCounts& counts, int32_t* out);

}  // namespace engram::gpu
