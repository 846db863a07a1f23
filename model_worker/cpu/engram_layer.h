// One Engram layer on the CPU: rows -> values -> keys and value -> gated into the hidden state.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "engram/table/table_layout.h"
#include "model_worker/backend.h"
#include "model_worker/cpu/attention.h"
#include "model_worker/cpu/compute_pool.h"
#include "model_worker/cpu/matmul.h"
#include "model_worker/model_config.h"
#include "model_worker/weights.h"

namespace engram {

// Arrays that all Engram layers of a backend share, since only one runs at a time.
struct EngramScratch {
  std::vector<float> values;      // [MatmulRows(tokens)][engram values]
  std::vector<float> keys_value;  // [MatmulRows(tokens)][(G + 1) * hidden]
  std::vector<float> gated;       // demo: [tokens][G * hidden]
  std::vector<float> window;      // demo: per part its history, then its tokens; [..][G * hidden]
  std::vector<uint32_t> window_row;  // demo: [tokens] a token's row in `window`
  std::vector<uint32_t> part_row;    // demo: [parts] the first history row in `window`
};

// One thread drives it.
class EngramLayer {
 public:
  [[nodiscard]] static Result<EngramLayer> Create(const ModelConfig& config,
                                                  EngramLayerWeights weights, RowFormat row_format,
                                                  const Backend::Limits& limits,
                                                  MatmulShapes* shapes);

  // Makes what Run for `token_count` tokens needs. Run does it too, if need be.
  [[nodiscard]] Status Prepare(uint32_t token_count) { return matrix_.Prepare(token_count); }

  // Forgets a sequence's convolution state.
  void ResetSlot(uint32_t slot);

  // hidden [tokens][G * hidden_size] is read and written.
  // ERRORS: kInternal (`pieces` are not of this step or model; oneDNN), kInvalidArgument (dead
  // positions in the demo variant, which has none).
  [[nodiscard]] Status Run(std::span<const LayerRows> pieces, std::span<const StepPart> parts,
                           uint32_t token_count, EngramScratch* scratch, ComputePool* pool,
                           float* hidden);

 private:
  EngramLayer() = default;
  void DecodeToken(const LayerRows& piece, size_t token, float* values) const;
  void FuseDemo(std::span<const StepPart> parts, uint32_t token_count, EngramScratch* scratch,
                ComputePool* pool, float* hidden);

  EngramLayerWeights weights_;  // keys_value is empty: packed in matrix_
  PackedMatrix matrix_;
  Variant variant_ = Variant::kV41;
  RowFormat row_format_ = RowFormat::kF8E4M3ScaleE8M0;
  uint32_t row_values_ = 0, row_bytes_ = 0, columns_ = 0;
  int32_t hidden_size_ = 0, kernel_size_ = 0, dilation_ = 0;
  float eps_ = 0;
  std::vector<float> history_;  // demo: [slots][ConvHistoryRows][G * hidden], oldest first
};

}  // namespace engram
