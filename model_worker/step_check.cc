#include "model_worker/step_check.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

namespace engram {
namespace {

constexpr uint32_t kStepTokensMax = 1u << 16;
constexpr uint32_t kSequencesMax = 1u << 16;
constexpr uint32_t kNeedsReset = std::numeric_limits<uint32_t>::max();

Status Invalid(const std::string& message) { return {StatusCode::kInvalidArgument, message}; }

// The highest row id of tokens that are not dead.
uint32_t HighestRowId(const LayerRows& rows, uint32_t columns) {
  uint32_t highest = 0;
  const std::byte* ids = rows.rows.data();
  const size_t token_bytes = size_t{columns} * kRowIdBytes;
  for (uint32_t token = 0; token < rows.token_count; ++token, ids += token_bytes) {
    if (!rows.dead.empty() && rows.dead[token] != 0) continue;
    for (size_t at = 0; at < token_bytes; at += kRowIdBytes) {
      uint32_t id = 0;
      std::memcpy(&id, ids + at, kRowIdBytes);
      highest = std::max(highest, id);
    }
  }
  return highest;
}

std::string NameOf(const LayerRowsShape& shape) {
  return "Engram layer " + std::to_string(shape.layer_id) + ": ";
}

Status CheckPiece(const LayerRowsShape& shape, const LayerRows& rows) {
  const uint32_t row_bytes = rows.only_ids ? kRowIdBytes : shape.row_bytes;
  const bool landed = rows.landed.rows != nullptr;
  if (landed && !shape.takes_landed) {
    return {StatusCode::kInternal,
            NameOf(shape) +
                "the row source put rows into a GPU's memory that this backend does "
                "not compute with"};
  }
  const uint64_t table_rows = landed ? rows.landed.row_count : shape.table_rows;
  if (rows.only_ids && table_rows == 0) {
    return {
        StatusCode::kInternal,
        NameOf(shape) + "the row source gave row ids to a backend that has no tables to look in"};
  }
  if (rows.rows.size() != uint64_t{rows.token_count} * shape.columns * row_bytes) {
    return {StatusCode::kInternal,
            NameOf(shape) + "the row source gave " + std::to_string(rows.rows.size()) +
                " bytes for " + std::to_string(rows.token_count) + " tokens of " +
                std::to_string(shape.columns) + " rows of " + std::to_string(row_bytes) +
                " bytes: the tables and the model's config.json do not belong together"};
  }
  if (!rows.dead.empty() && rows.dead.size() != rows.token_count) {
    return {StatusCode::kInternal, NameOf(shape) + "the dead mask has " +
                                       std::to_string(rows.dead.size()) + " entries for " +
                                       std::to_string(rows.token_count) + " tokens"};
  }
  const bool any_dead =
      std::any_of(rows.dead.begin(), rows.dead.end(), [](uint8_t d) { return d != 0; });
  if (any_dead && shape.variant == Variant::kDemo) {
    return Invalid(NameOf(shape) + "the demo variant has no dead positions: send no dead mask");
  }
  if (!rows.only_ids) return {};
  if (const uint32_t id = HighestRowId(rows, shape.columns); id >= table_rows) {
    return {StatusCode::kInternal, NameOf(shape) + "the row source gave row id " +
                                       std::to_string(id) + " of a table of " +
                                       std::to_string(table_rows) + " rows"};
  }
  return {};
}

std::string NameOf(SequenceSlot slot) { return "sequence slot " + std::to_string(slot.value()); }

}  // namespace

void SequencePositions::Reset(SequenceSlot slot) {
  if (slot.value() < limits_.sequences_max) next_[slot.value()] = 0;
}

Status SequencePositions::Check(std::span<const SequenceStep> steps) {
  if (steps.empty()) return Invalid("a step without sequences");
  if (steps.size() > limits_.sequences_max) {
    return Invalid("a step of " + std::to_string(steps.size()) + " sequences; at most " +
                   std::to_string(limits_.sequences_max));
  }
  size_t tokens = 0;
  ++check_;
  for (const SequenceStep& step : steps) {
    if (step.slot.value() >= limits_.sequences_max) {
      return Invalid(NameOf(step.slot) + " of " + std::to_string(limits_.sequences_max));
    }
    if (std::exchange(checked_[step.slot.value()], check_) == check_) {
      return Invalid(NameOf(step.slot) + " is in the step twice");
    }
    ENGRAM_RETURN_IF_ERROR(CheckOne(step));
    tokens += step.tokens.size();
  }
  if (tokens > limits_.step_tokens_max) {
    return Invalid("a step of " + std::to_string(tokens) + " tokens; at most " +
                   std::to_string(limits_.step_tokens_max));
  }
  return {};
}

Status SequencePositions::CheckOne(const SequenceStep& step) const {
  const std::string name = NameOf(step.slot);
  if (step.tokens.empty()) return Invalid(name + ": no tokens");
  const uint32_t next = next_[step.slot.value()];
  if (step.position != next) {
    return Invalid(name + ": position " + std::to_string(step.position) +
                   (next == kNeedsReset ? " after an error: reset the slot"
                                        : ", expected " + std::to_string(next)));
  }
  if (step.tokens.size() > limits_.sequence_tokens_max - step.position) {
    return Invalid(name + ": " + std::to_string(step.tokens.size()) + " tokens at position " +
                   std::to_string(step.position) + "; a sequence has at most " +
                   std::to_string(limits_.sequence_tokens_max));
  }
  for (const TokenId token : step.tokens) {
    if (token < 0 || token >= vocabulary_size_) {
      return Invalid(name + ": token id " + std::to_string(token) + "; the vocabulary has " +
                     std::to_string(vocabulary_size_));
    }
  }
  return {};
}

void SequencePositions::Begin(std::span<const SequenceStep> steps) {
  for (const SequenceStep& step : steps) next_[step.slot.value()] = kNeedsReset;
}

void SequencePositions::Finish(std::span<const SequenceStep> steps) {
  for (const SequenceStep& step : steps) {
    next_[step.slot.value()] = step.position + static_cast<uint32_t>(step.tokens.size());
  }
}

Status CheckBackendLimits(const ModelConfig& config, const ModelWeights& weights,
                          const Backend::Limits& limits) {
  if (limits.sequences_max == 0 || limits.sequence_tokens_max == 0 || limits.step_tokens_max == 0) {
    return Invalid("sequences_max, sequence_tokens_max and step_tokens_max must be at least 1");
  }
  if (limits.sequence_tokens_max > static_cast<uint32_t>(config.positions_max)) {
    return Invalid("sequence_tokens_max = " + std::to_string(limits.sequence_tokens_max) +
                   ", but the model's max_position_embeddings is " +
                   std::to_string(config.positions_max));
  }
  if (limits.step_tokens_max > kStepTokensMax || limits.sequences_max > kSequencesMax) {
    return Invalid("step_tokens_max is at most " + std::to_string(kStepTokensMax) +
                   ", sequences_max at most " + std::to_string(kSequencesMax));
  }
  for (const EngramLayerWeights& layer : weights.engram) {
    if (layer.branch_count != 1) {
      return Invalid("Engram layer " + std::to_string(layer.layer_id) + " has " +
                     std::to_string(layer.branch_count) +
                     " hyper-connection branches; this worker runs the plain residual stream "
                     "(1 branch)");
    }
  }
  return {};
}

Status WhileComputing(const Status& status, const Status& rows_error) {
  if (status.code() != StatusCode::kResourceExhausted || status == rows_error) return status;
  return {StatusCode::kInternal, "memory ran out while a step was computed: " + status.message() +
                                     "; give it less with fewer --kv-tokens, --concurrency or "
                                     "--step-tokens, or free what else uses the GPU"};
}

Status CheckLayerRows(const LayerRowsShape& shape, std::span<const LayerRows> pieces,
                      uint32_t token_count) {
  uint64_t tokens = 0;
  for (const LayerRows& piece : pieces) {
    if (piece.only_ids != pieces.front().only_ids) {
      return {StatusCode::kInternal,
              NameOf(shape) + "the row source gave rows for some tokens and row ids for others"};
    }
    ENGRAM_RETURN_IF_ERROR(CheckPiece(shape, piece));
    tokens += piece.token_count;
  }
  if (tokens == token_count) return {};
  return {StatusCode::kInternal, NameOf(shape) + "the row source gave rows of " +
                                     std::to_string(tokens) + " tokens, the step has " +
                                     std::to_string(token_count)};
}

}  // namespace engram
