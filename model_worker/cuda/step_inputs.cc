#include "model_worker/cuda/step_inputs.h"

#include <algorithm>

#include "engram/base/check.h"

namespace engram::gpu {
namespace {

uint32_t TilesOf(const SequenceStep& step) {
  return (static_cast<uint32_t>(step.tokens.size()) + kTileTokens - 1) / kTileTokens;
}

}  // namespace

StepCounts CountStep(std::span<const SequenceStep> steps, size_t page_entries, uint32_t kv_heads) {
  StepCounts counts;
  uint32_t length_max = 1;
  for (const SequenceStep& step : steps) {
    counts.tokens += static_cast<uint32_t>(step.tokens.size());
    counts.logits_wanted += step.logits_wanted ? 1 : 0;
    if (step.tokens.size() == 1) {
      ++counts.decodes;
      length_max = std::max(length_max, step.position + 1);
    } else {
      counts.tiles += TilesOf(step);
    }
  }
  counts.parts = static_cast<uint32_t>(steps.size());
  counts.pages = static_cast<uint32_t>(page_entries);
  counts.rows = RowBucket(counts.tokens);
  counts.logits = counts.logits_wanted == 0 ? 0 : RowBucket(counts.logits_wanted);
  counts.uniform_decode =
      counts.tiles == 0 && counts.logits_wanted > 0 && counts.rows <= kUniformRowsMax;
  if (counts.uniform_decode) {
    counts.parts = counts.decodes = counts.logits = counts.pages = counts.rows;
  }
  if (counts.decodes > 0) {
    counts.splits = ChooseDecodeSplits(counts.decodes, kv_heads, length_max);
  }
  return counts;
}

StepOffsets PlaceStep(const StepCounts& counts) {
  StepOffsets at;
  size_t next = 0;
  const auto place = [&](size_t* offset, uint32_t count) {
    *offset = next;
    next += (size_t{count} + 3) / 4 * 4;  // each array starts on 16 bytes
  };
  place(&at.tokens, counts.rows);
  place(&at.positions, counts.rows);
  place(&at.slots, counts.rows);
  place(&at.row_parts, counts.rows);
  place(&at.part_slots, counts.parts);
  place(&at.part_begins, counts.parts);
  place(&at.part_lengths, counts.parts);
  place(&at.decode_rows, counts.decodes);
  place(&at.tile_rows, counts.tiles);
  place(&at.tile_lengths, counts.tiles);
  place(&at.logit_rows, counts.logits);
  place(&at.page_indices, counts.pages);
  place(&at.page_values, counts.pages);
  at.int_count = next;
  return at;
}

size_t StepIntsMax(const Backend::Limits& limits) {
  StepCounts most;
  const uint32_t parts = std::min(limits.sequences_max, limits.step_tokens_max);
  most.rows = RowBucket(limits.step_tokens_max);
  // A uniform step has as many of everything as rows.
  most.parts = most.decodes = most.logits = RowBucket(parts);
  most.tiles = parts + limits.step_tokens_max / kTileTokens;
  most.pages = std::max(most.parts, parts + limits.step_tokens_max / kPageTokens);
  return PlaceStep(most).int_count;
}

void FillStep(std::span<const SequenceStep> steps, std::span<const PageEntry> entries,
              const StepCounts& counts, int32_t* out) {
  const StepOffsets at = PlaceStep(counts);
  std::fill_n(out, at.int_count, -1);
  std::fill_n(out + at.part_lengths, counts.parts, 0);
  std::fill_n(out + at.tile_lengths, counts.tiles, 0);
  uint32_t row = 0, decode = 0, tile = 0, logit = 0;
  for (size_t p = 0; p < steps.size(); ++p) {
    const SequenceStep& step = steps[p];
    const auto tokens = static_cast<uint32_t>(step.tokens.size());
    out[at.part_slots + p] = static_cast<int32_t>(step.slot.value());
    out[at.part_begins + p] = static_cast<int32_t>(row);
    out[at.part_lengths + p] = static_cast<int32_t>(tokens);
    if (tokens == 1) {
      out[at.decode_rows + decode++] = static_cast<int32_t>(row);
    } else {
      for (uint32_t begin = 0; begin < tokens; begin += kTileTokens) {
        out[at.tile_rows + tile] = static_cast<int32_t>(row + begin);
        out[at.tile_lengths + tile++] = static_cast<int32_t>(std::min(kTileTokens, tokens - begin));
      }
    }
    for (uint32_t t = 0; t < tokens; ++t, ++row) {
      out[at.tokens + row] = step.tokens[t];
      out[at.positions + row] = static_cast<int32_t>(step.position + t);
      out[at.slots + row] = static_cast<int32_t>(step.slot.value());
      out[at.row_parts + row] = static_cast<int32_t>(p);
    }
    if (step.logits_wanted) out[at.logit_rows + logit++] = static_cast<int32_t>(row - 1);
  }
  ENGRAM_CHECK(row == counts.tokens && entries.size() <= counts.pages);
  for (size_t e = 0; e < entries.size(); ++e) {
    out[at.page_indices + e] = static_cast<int32_t>(entries[e].index);
    out[at.page_values + e] = static_cast<int32_t>(entries[e].page);
  }
}

}  // namespace engram::gpu
