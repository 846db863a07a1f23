#include "model_worker/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace engram {
namespace {

// Tokens of one sequence that one task takes: enough to make a task worth its claim, few enough to
// share a prefill among threads.
constexpr uint32_t kTileTokens = 16;

constexpr uint32_t RoundUp16(uint32_t n) { return (n + 15) / 16 * 16; }

}  // namespace

Attention::Attention(const ModelConfig& config, const Backend::Limits& limits, uint32_t threads)
    : kernels_(&CpuKernels()),
      head_count_(config.head_count),
      kv_head_count_(config.kv_head_count),
      head_dim_(config.head_dim),
      value_stride_(static_cast<int32_t>(RoundUp16(static_cast<uint32_t>(config.head_dim)))),
      slots_(limits.sequences_max),
      positions_padded_(RoundUp16(limits.sequence_tokens_max)),
      eps_(config.rms_norm_eps),
      scratch_floats_(size_t{kAttendQueriesMax} * positions_padded_ +
                      static_cast<size_t>(value_stride_)) {
  scratch_.resize(scratch_floats_ * threads);
  const int32_t half = head_dim_ / 2;
  cosine_.resize(size_t{positions_padded_} * static_cast<size_t>(half));
  sine_.resize(cosine_.size());
  for (uint32_t position = 0; position < positions_padded_; ++position) {
    for (int32_t i = 0; i < half; ++i) {
      // Rounded to float where Hugging Face does: the frequency, and its product with the position.
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim_);
      const float frequency =
          static_cast<float>(1.0 / std::pow(config.rope_theta, static_cast<double>(exponent)));
      const float angle = static_cast<float>(position) * frequency;
      const size_t at = size_t{position} * static_cast<size_t>(half) + static_cast<size_t>(i);
      cosine_[at] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sine_[at] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

Result<Attention> Attention::Create(const ModelConfig& config, const Backend::Limits& limits,
                                    uint32_t threads) {
  Attention attention(config, limits, threads);
  // At most 2^60, by the bounds that config and limits were checked for.
  const uint64_t rows = static_cast<uint64_t>(config.layer_count) * limits.sequences_max *
                        static_cast<uint64_t>(config.kv_head_count) * attention.positions_padded_;
  if (rows >> 40 != 0) {
    return Error(StatusCode::kResourceExhausted,
                 "the KV cache of " + std::to_string(limits.sequences_max) + " sequences of " +
                     std::to_string(limits.sequence_tokens_max) +
                     " tokens is larger than any machine: lower the limits");
  }
  ENGRAM_ASSIGN_OR_RETURN(
      attention.keys_,
      PageBuffer::Create(rows * static_cast<uint64_t>(config.head_dim), false, "the K cache"));
  ENGRAM_ASSIGN_OR_RETURN(attention.values_,
                          PageBuffer::Create(rows * static_cast<uint64_t>(attention.value_stride_),
                                             false, "the V cache"));
  return attention;
}

uint64_t Attention::KeyOffset(int32_t layer, uint32_t slot, uint32_t kv_head) const {
  const uint64_t sequence = static_cast<uint64_t>(layer) * slots_ + slot;
  return (sequence * static_cast<uint64_t>(kv_head_count_) + kv_head) * positions_padded_ *
         static_cast<uint64_t>(head_dim_);
}

uint64_t Attention::ValueOffset(int32_t layer, uint32_t slot, uint32_t kv_head) const {
  return KeyOffset(layer, slot, kv_head) / static_cast<uint64_t>(head_dim_) *
         static_cast<uint64_t>(value_stride_);
}

void Attention::PlanTiles(std::span<const StepPart> parts) {
  tiles_.clear();
  for (uint32_t p = 0; p < parts.size(); ++p) {
    // The last tokens attend to the most positions: longest tasks first.
    for (uint32_t end = parts[p].token_count; end > 0; end -= std::min(end, kTileTokens)) {
      for (uint32_t h = 0; h < static_cast<uint32_t>(kv_head_count_); ++h) {
        tiles_.push_back({p, h, end - std::min(end, kTileTokens), end});
      }
    }
  }
}

void Attention::StoreToken(int32_t layer, const StepPart& part, uint32_t token, const float* q_norm,
                           const float* k_norm, float* token_qkv, float* key_scratch) {
  const uint32_t position = part.position + token;
  const ptrdiff_t half = head_dim_ / 2;
  const float* cosine = cosine_.data() + position * half;
  const float* sine = sine_.data() + position * half;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
  for (int32_t h = 0; h < head_count_; ++h) {
    // In place is safe: each pair is read before it is written.
    float* query = token_qkv + ptrdiff_t{h} * head_dim_;
    kernels_->norm_rotate(query, q_norm, eps_, head_dim_, cosine, sine, scale, query);
  }
  const float* key = token_qkv + ptrdiff_t{head_count_} * head_dim_;
  const float* value = key + ptrdiff_t{kv_head_count_} * head_dim_;
  for (uint32_t h = 0; h < static_cast<uint32_t>(kv_head_count_); ++h) {
    kernels_->norm_rotate(key, k_norm, eps_, head_dim_, cosine, sine, 1.0f, key_scratch);
    float* keys =
        keys_.data() + KeyOffset(layer, part.slot, h) +
        uint64_t{position / kPositionBlock} * kPositionBlock * static_cast<uint64_t>(head_dim_) +
        position % kPositionBlock;
    for (int32_t d = 0; d < head_dim_; ++d) keys[ptrdiff_t{d} * kPositionBlock] = key_scratch[d];
    float* values = values_.data() + ValueOffset(layer, part.slot, h) +
                    uint64_t{position} * static_cast<uint64_t>(value_stride_);
    std::memcpy(values, value, static_cast<size_t>(head_dim_) * sizeof(float));
    key += head_dim_;
    value += head_dim_;
  }
}

void Attention::AttendTile(int32_t layer, const StepPart& part, const Tile& tile, const float* qkv,
                           float* out, float* scores) {
  const int32_t group = head_count_ / kv_head_count_;
  const ptrdiff_t qkv_stride = ptrdiff_t{head_count_ + 2 * kv_head_count_} * head_dim_;
  const ptrdiff_t out_stride = ptrdiff_t{head_count_} * head_dim_;
  const float* queries[kAttendQueriesMax];
  int lengths[kAttendQueriesMax];
  float* outputs[kAttendQueriesMax];
  AttendArgs args;
  args.queries = queries;
  args.lengths = lengths;
  args.outputs = outputs;
  args.keys = keys_.data() + KeyOffset(layer, part.slot, tile.kv_head);
  args.values = values_.data() + ValueOffset(layer, part.slot, tile.kv_head);
  args.head_dim = head_dim_;
  args.value_stride = value_stride_;
  args.scores = scores;
  args.score_stride = static_cast<int>(positions_padded_);
  for (uint32_t t = tile.token_begin; t < tile.token_end; ++t) {
    const uint32_t row = part.token_begin + t;
    for (int32_t g = 0; g < group; ++g) {
      const ptrdiff_t head = static_cast<ptrdiff_t>(tile.kv_head) * group + g;
      queries[args.query_count] = qkv + row * qkv_stride + head * head_dim_;
      lengths[args.query_count] = static_cast<int>(part.position + t + 1);
      outputs[args.query_count] = out + row * out_stride + head * head_dim_;
      const bool last = t + 1 == tile.token_end && g + 1 == group;
      if (++args.query_count == kAttendQueriesMax || last) {
        kernels_->attend(args);
        args.query_count = 0;
      }
    }
  }
}

void Attention::Run(int32_t layer, const float* q_norm, const float* k_norm,
                    std::span<const StepPart> parts, float* qkv, float* out, ComputePool* pool) {
  PlanTiles(parts);
  const ptrdiff_t qkv_stride = ptrdiff_t{head_count_ + 2 * kv_head_count_} * head_dim_;
  const auto key_scratch = [&](uint32_t thread) {
    return scratch_.data() + scratch_floats_ * thread +
           size_t{kAttendQueriesMax} * positions_padded_;
  };
  if (parts.size() > 1 || parts.front().token_count == 1) {
    pool->Run(parts.size(), [&](size_t p, uint32_t thread) {
      for (uint32_t t = 0; t < parts[p].token_count; ++t) {
        StoreToken(layer, parts[p], t, q_norm, k_norm,
                   qkv + (parts[p].token_begin + t) * qkv_stride, key_scratch(thread));
      }
    });
  } else {
    pool->Run(parts.front().token_count, [&](size_t t, uint32_t thread) {
      StoreToken(layer, parts.front(), static_cast<uint32_t>(t), q_norm, k_norm,
                 qkv + static_cast<ptrdiff_t>(t) * qkv_stride, key_scratch(thread));
    });
  }
  pool->Run(tiles_.size(), [&](size_t i, uint32_t thread) {
    const Tile& tile = tiles_[i];
    AttendTile(layer, parts[tile.part], tile, qkv, out, scratch_.data() + scratch_floats_ * thread);
  });
}

}  // namespace engram
