#include "model_worker/cpu/engram_layer.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "engram/table/row_codec.h"
#include "model_worker/fusion.h"
#include "model_worker/step_check.h"

namespace engram {
namespace {

struct PieceToken {
  const LayerRows* piece;
  size_t token;  // in the piece
};

// Of a step's token. Precondition: the pieces have it.
PieceToken PieceOf(std::span<const LayerRows> pieces, size_t token) {
  const LayerRows* piece = pieces.data();
  for (; token >= piece->token_count; ++piece) token -= piece->token_count;
  return {piece, token};
}

bool IsDead(const LayerRows& piece, size_t token) {
  return !piece.dead.empty() && piece.dead[token] != 0;
}

}  // namespace

Result<EngramLayer> EngramLayer::Create(const ModelConfig& config, EngramLayerWeights weights,
                                        RowFormat row_format, const Backend::Limits& limits,
                                        MatmulShapes* shapes) {
  EngramLayer layer;
  layer.variant_ = config.engram->variant;
  layer.row_format_ = row_format;
  layer.row_values_ = config.engram->row_values;
  layer.row_bytes_ = RowBytes(row_format, config.engram->row_values);
  layer.columns_ = static_cast<uint32_t>(config.engram_columns());
  layer.hidden_size_ = config.hidden_size;
  layer.kernel_size_ = config.engram->demo_kernel_size;
  layer.dilation_ = config.engram->max_ngram_size;
  layer.eps_ = config.rms_norm_eps;
  ENGRAM_ASSIGN_OR_RETURN(
      layer.matrix_, PackedMatrix::Pack(shapes, weights.keys_value.values, weights.keys_value.rows,
                                        weights.keys_value.columns, false));
  weights.keys_value = {};
  layer.weights_ = std::move(weights);
  if (layer.variant_ == Variant::kDemo) {
    const auto rows = static_cast<size_t>(ConvHistoryRows(layer.kernel_size_, layer.dilation_));
    const size_t width =
        static_cast<size_t>(layer.weights_.branch_count) * static_cast<size_t>(layer.hidden_size_);
    layer.history_.resize(limits.sequences_max * rows * width);
  }
  return layer;
}

void EngramLayer::ResetSlot(uint32_t slot) {
  if (variant_ != Variant::kDemo) return;
  const ptrdiff_t floats =
      ptrdiff_t{ConvHistoryRows(kernel_size_, dilation_)} * weights_.branch_count * hidden_size_;
  std::fill_n(history_.begin() + slot * floats, floats, 0.0f);
}

void EngramLayer::DecodeToken(const LayerRows& piece, size_t token, float* values) const {
  if (IsDead(piece, token)) {
    std::fill_n(values, size_t{columns_} * row_values_, 0.0f);
    return;
  }
  const std::byte* row = piece.rows.data() + token * columns_ * row_bytes_;
  for (uint32_t c = 0; c < columns_; ++c) {
    DecodeRow(row_format_, row, row_values_, values);
    row += row_bytes_;
    values += row_values_;
  }
}

Status EngramLayer::Run(std::span<const LayerRows> pieces, std::span<const StepPart> parts,
                        uint32_t token_count, EngramScratch* scratch, ComputePool* pool,
                        float* hidden) {
  ENGRAM_RETURN_IF_ERROR(
      CheckLayerRows({weights_.layer_id, variant_, columns_, row_bytes_}, pieces, token_count));
  ENGRAM_RETURN_IF_ERROR(matrix_.Prepare(token_count));
  const size_t width = size_t{columns_} * row_values_;
  pool->Run(token_count, [&](size_t token, uint32_t) {
    const auto [piece, at] = PieceOf(pieces, token);
    DecodeToken(*piece, at, scratch->values.data() + token * width);
  });
  std::atomic<bool> failed{false};
  pool->Run(matrix_.TaskCount(token_count), [&](size_t task, uint32_t thread) {
    if (!matrix_.RunTask(thread, task, token_count, scratch->values.data(),
                         scratch->keys_value.data())) {
      failed.store(true, std::memory_order_relaxed);
    }
  });
  if (failed.load(std::memory_order_relaxed)) {
    return Status(StatusCode::kInternal, "oneDNN failed in an Engram layer's keys and value");
  }
  if (variant_ == Variant::kDemo) {
    FuseDemo(parts, token_count, scratch, pool, hidden);
    return {};
  }
  const size_t outputs = static_cast<size_t>(matrix_.columns_out());
  const size_t hidden_width =
      static_cast<size_t>(weights_.branch_count) * static_cast<size_t>(hidden_size_);
  pool->Run(token_count, [&](size_t token, uint32_t) {
    const auto [piece, at] = PieceOf(pieces, token);
    if (IsDead(*piece, at)) return;
    FuseV41(weights_, hidden_size_, eps_, scratch->keys_value.data() + token * outputs,
            hidden + token * hidden_width);
  });
  return {};
}

void EngramLayer::FuseDemo(std::span<const StepPart> parts, uint32_t token_count,
                           EngramScratch* scratch, ComputePool* pool, float* hidden) {
  const auto history_rows = static_cast<uint32_t>(ConvHistoryRows(kernel_size_, dilation_));
  const size_t width =
      static_cast<size_t>(weights_.branch_count) * static_cast<size_t>(hidden_size_);
  const size_t outputs = static_cast<size_t>(matrix_.columns_out());
  const size_t history_floats = history_rows * width;
  float* window = scratch->window.data();

  scratch->window_row.clear();
  scratch->part_row.clear();
  uint32_t row = 0;
  for (const StepPart& part : parts) {
    scratch->part_row.push_back(row);
    std::memcpy(window + row * width, history_.data() + part.slot * history_floats,
                history_floats * sizeof(float));
    row += history_rows;
    for (uint32_t t = 0; t < part.token_count; ++t) scratch->window_row.push_back(row++);
  }
  pool->Run(token_count, [&](size_t token, uint32_t) {
    float* gated = scratch->gated.data() + token * width;
    GateDemo(weights_, hidden_size_, scratch->keys_value.data() + token * outputs,
             hidden + token * width, gated);
    for (int32_t g = 0; g < weights_.branch_count; ++g) {
      const size_t offset = static_cast<size_t>(g) * static_cast<size_t>(hidden_size_);
      NormConvInput(weights_, g, hidden_size_, gated + offset,
                    window + scratch->window_row[token] * width + offset);
    }
  });
  pool->Run(token_count, [&](size_t token, uint32_t) {
    ConvolveDemo(weights_, hidden_size_, kernel_size_, dilation_,
                 scratch->gated.data() + token * width, window + scratch->window_row[token] * width,
                 static_cast<ptrdiff_t>(width), hidden + token * width);
  });
  // The last history_rows rows, some of them old ones where the part is short.
  for (size_t p = 0; p < parts.size(); ++p) {
    std::memcpy(history_.data() + parts[p].slot * history_floats,
                window + (scratch->part_row[p] + parts[p].token_count) * width,
                history_floats * sizeof(float));
  }
}

}  // namespace engram
