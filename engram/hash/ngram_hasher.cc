#include "engram/hash/ngram_hasher.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "engram/base/check.h"
#include "engram/hash/bucket_kernel.h"

namespace engram {
namespace {

// Tokens hashed at a time: the mixes of a block stay in the first-level cache.
constexpr size_t kBlockTokens = 256;
constexpr size_t kHistoryMax = kNgramSizeMax - 1;

struct Column {
  Divisor divisor;
  BucketKernel kernel;

  void Reduce(std::span<const uint64_t> mixes, bool any_negative, uint32_t* buckets) const {
    if (!any_negative) [[likely]] {
      kernel(mixes.data(), mixes.size(), divisor, buckets);
      return;
    }
    for (size_t i = 0; i < mixes.size(); ++i) {
      buckets[i] = divisor.FlooredRemainder(static_cast<int64_t>(mixes[i]));
    }
  }
};

struct Layer {
  std::array<uint64_t, kNgramSizeMax> multipliers;
  // pad_id * multiplier: what a look-back across a break adds.
  std::array<uint64_t, kNgramSizeMax> pad_terms;
  std::vector<Column> columns;
};

// Compressed ids of a block and of the look-back before it, and how far each may look.
struct Block {
  // [kHistoryMax + tokens]; token t of the block is at kHistoryMax + t. Negative ids (demo) are
  // sign-extended: products wrap like numpy's int64.
  std::array<uint64_t, kHistoryMax + kBlockTokens> ids;
  // The number of live tokens of the sequence in a row that end here, capped at kNgramSizeMax: look
  // back k is the pad from k >= live on. So pads are sticky, and the start of a sequence and a dead
  // token are the same thing.
  std::array<uint8_t, kHistoryMax + kBlockTokens> live;
  size_t count;  // tokens
};

Status BadMask(const char* which, size_t found, size_t expected) {
  return Status(StatusCode::kInvalidArgument,
                std::string("token run: ") + which + " has " + std::to_string(found) +
                    " entries, must be empty or " + std::to_string(expected) +
                    " (one for each token)");
}

}  // namespace

struct NgramHasher::Impl {
  HashSpec spec;
  std::vector<int32_t> compression;
  std::vector<std::vector<uint32_t>> column_sizes;
  std::vector<Layer> layers;

  [[nodiscard]] uint64_t Compress(TokenId id) const {
    if (id < 0) return static_cast<uint64_t>(static_cast<int64_t>(id));
    ENGRAM_CHECK(static_cast<size_t>(id) < compression.size());
    return static_cast<uint64_t>(compression[static_cast<size_t>(id)]);
  }

  [[nodiscard]] Status ValidateIds(std::span<const TokenId> ids, const char* which) const {
    const auto end = static_cast<int64_t>(compression.size());
    const TokenId least = spec.variant == Variant::kDemo ? std::numeric_limits<TokenId>::min() : 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] >= least && ids[i] < end) continue;
      return Status(StatusCode::kInvalidArgument,
                    std::string("token run: ") + which + "[" + std::to_string(i) +
                        "] is token id " + std::to_string(ids[i]) + ", outside the vocabulary of " +
                        std::to_string(end) + " ids: is this the model's tokenizer?");
    }
    return Status();
  }

  void LoadHistory(const TokenRun& run, Block& block) const;
  void LoadTokens(const TokenRun& run, size_t begin, size_t count, Block& block) const;
  // Calls use(block, begin) for the run's tokens [begin, begin + block.count), block by block.
  template <typename Use>
  void ForEachBlock(const TokenRun& run, Use use) const;
  // Calls use(place of an order, its mixes of the block's tokens) for every order.
  template <typename Use>
  void MixBlock(const Layer& layer, const Block& block, Use use) const;
  // Whether a mix can be negative, which the kernels are not made for.
  [[nodiscard]] bool AnyNegative(std::span<const uint64_t> mixes) const {
    if (spec.variant != Variant::kDemo) return false;  // Validate has let no negative id through
    uint64_t signs = 0;
    for (const uint64_t mix : mixes) signs |= mix;
    return (signs >> 63) != 0;
  }
};

void NgramHasher::Impl::LoadHistory(const TokenRun& run, Block& block) const {
  const size_t kept = std::min(run.history.size(), static_cast<size_t>(spec.max_ngram_size - 1));
  const size_t skipped = run.history.size() - kept;
  std::fill_n(block.ids.begin(), kHistoryMax, 0);
  std::fill_n(block.live.begin(), kHistoryMax, uint8_t{0});
  uint8_t live = 0;
  for (size_t i = 0; i < kept; ++i) {
    const bool dead = !run.history_dead.empty() && run.history_dead[skipped + i] != 0;
    live = dead ? uint8_t{0} : static_cast<uint8_t>(live + 1);
    block.ids[kHistoryMax - kept + i] = Compress(run.history[skipped + i]);
    block.live[kHistoryMax - kept + i] = live;
  }
}

void NgramHasher::Impl::LoadTokens(const TokenRun& run, size_t begin, size_t count,
                                   Block& block) const {
  for (size_t i = 0; i < count; ++i) block.ids[kHistoryMax + i] = Compress(run.tokens[begin + i]);
  block.count = count;
  uint8_t live = block.live[kHistoryMax - 1];
  for (size_t i = 0; i < count; ++i) {
    const bool dead = !run.tokens_dead.empty() && run.tokens_dead[begin + i] != 0;
    live = dead ? uint8_t{0} : std::min<uint8_t>(static_cast<uint8_t>(live + 1), kNgramSizeMax);
    block.live[kHistoryMax + i] = live;
  }
}

template <typename Use>
void NgramHasher::Impl::MixBlock(const Layer& layer, const Block& block, Use use) const {
  const auto terms = static_cast<size_t>(spec.max_ngram_size);
  const size_t count = block.count;
  std::array<uint64_t, kBlockTokens> mix;
  uint64_t* const mixes = mix.data();
  for (size_t k = 0; k < terms; ++k) {
    const uint64_t multiplier = layer.multipliers[k];
    const uint64_t pad_term = layer.pad_terms[k];
    const uint64_t* const ids = block.ids.data() + kHistoryMax - k;
    const uint8_t* const live = block.live.data() + kHistoryMax;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t term = live[i] > k ? ids[i] * multiplier : pad_term;
      mixes[i] = k == 0 ? term : mixes[i] ^ term;
    }
    if (k > 0) use(k - 1, std::span<const uint64_t>(mixes, count));  // orders start at 2
  }
}

template <typename Use>
void NgramHasher::Impl::ForEachBlock(const TokenRun& run, Use use) const {
  Block block;
  LoadHistory(run, block);
  for (size_t begin = 0; begin < run.tokens.size(); begin += kBlockTokens) {
    LoadTokens(run, begin, std::min(kBlockTokens, run.tokens.size() - begin), block);
    use(std::as_const(block), begin);
    // The last tokens of this block are the look-back of the next.
    if (block.count == kBlockTokens) {
      std::copy_n(block.ids.end() - kHistoryMax, kHistoryMax, block.ids.begin());
      std::copy_n(block.live.end() - kHistoryMax, kHistoryMax, block.live.begin());
    }
  }
}

NgramHasher::NgramHasher(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
NgramHasher::NgramHasher(NgramHasher&&) noexcept = default;
NgramHasher& NgramHasher::operator=(NgramHasher&&) noexcept = default;
NgramHasher::~NgramHasher() = default;

Result<NgramHasher> NgramHasher::Create(const HashSpec& spec,
                                        std::span<const int32_t> compression) {
  ENGRAM_TRY(ValidateHashSpec(spec));
  for (size_t id = 0; id < compression.size(); ++id) {
    if (compression[id] >= 0 && compression[id] < spec.compressed_vocab_size) continue;
    return Error(StatusCode::kInvalidArgument,
                 "compression table: token id " + std::to_string(id) + " maps to " +
                     std::to_string(compression[id]) + ", outside the compressed vocabulary of " +
                     std::to_string(spec.compressed_vocab_size) + " ids");
  }
  auto impl = std::make_unique<Impl>();
  impl->spec = spec;
  impl->compression.assign(compression.begin(), compression.end());
  ENGRAM_ASSIGN_OR_RETURN(impl->column_sizes, ColumnSizes(spec));
  for (size_t i = 0; i < spec.layer_ids.size(); ++i) {
    Layer layer{};
    const std::vector<uint64_t> multipliers = Multipliers(spec, spec.layer_ids[i]);
    for (size_t k = 0; k < multipliers.size(); ++k) {
      layer.multipliers[k] = multipliers[k];
      layer.pad_terms[k] = static_cast<uint64_t>(spec.pad_id) * multipliers[k];
    }
    for (const uint32_t prime : impl->column_sizes[i]) {
      const Divisor divisor(prime);
      layer.columns.push_back({divisor, ChooseBucketKernel(divisor)});
    }
    impl->layers.push_back(std::move(layer));
  }
  return NgramHasher(std::move(impl));
}

const HashSpec& NgramHasher::spec() const { return impl_->spec; }

const std::vector<std::vector<uint32_t>>& NgramHasher::column_sizes() const {
  return impl_->column_sizes;
}

Status NgramHasher::Validate(const TokenRun& run) const {
  if (!run.history_dead.empty() && run.history_dead.size() != run.history.size()) {
    return BadMask("history_dead", run.history_dead.size(), run.history.size());
  }
  if (!run.tokens_dead.empty() && run.tokens_dead.size() != run.tokens.size()) {
    return BadMask("tokens_dead", run.tokens_dead.size(), run.tokens.size());
  }
  if (impl_->spec.variant == Variant::kDemo &&
      !(run.history_dead.empty() && run.tokens_dead.empty())) {
    return Status(StatusCode::kInvalidArgument,
                  "token run: the demo variant has no dead tokens: leave the dead masks empty");
  }
  ENGRAM_RETURN_IF_ERROR(impl_->ValidateIds(run.history, "history"));
  return impl_->ValidateIds(run.tokens, "tokens");
}

void NgramHasher::Hash(int32_t layer_index, const TokenRun& run, uint32_t* buckets,
                       size_t column_stride) const {
  ENGRAM_CHECK(layer_index >= 0 && static_cast<size_t>(layer_index) < impl_->layers.size());
  ENGRAM_CHECK(column_stride >= run.tokens.size());
  const Layer& layer = impl_->layers[static_cast<size_t>(layer_index)];
  const auto heads = static_cast<size_t>(impl_->spec.head_count);
  impl_->ForEachBlock(run, [&](const Block& block, size_t begin) {
    impl_->MixBlock(layer, block, [&](size_t order, std::span<const uint64_t> mixes) {
      const bool any_negative = impl_->AnyNegative(mixes);
      uint32_t* out = buckets + order * heads * column_stride + begin;
      for (size_t head = 0; head < heads; ++head, out += column_stride) {
        layer.columns[order * heads + head].Reduce(mixes, any_negative, out);
      }
    });
  });
}

void NgramHasher::Mix(int32_t layer_index, const TokenRun& run, uint64_t* mixes,
                      size_t order_stride) const {
  ENGRAM_CHECK(layer_index >= 0 && static_cast<size_t>(layer_index) < impl_->layers.size());
  ENGRAM_CHECK(order_stride >= run.tokens.size());
  const Layer& layer = impl_->layers[static_cast<size_t>(layer_index)];
  impl_->ForEachBlock(run, [&](const Block& block, size_t begin) {
    impl_->MixBlock(layer, block, [&](size_t order, std::span<const uint64_t> of_order) {
      std::copy(of_order.begin(), of_order.end(), mixes + order * order_stride + begin);
    });
  });
}

void NgramHasher::Reduce(int32_t layer_index, int32_t column, std::span<const uint64_t> mixes,
                         uint32_t* buckets) const {
  const Layer& layer = impl_->layers[static_cast<size_t>(layer_index)];
  layer.columns[static_cast<size_t>(column)].Reduce(mixes, impl_->AnyNegative(mixes), buckets);
}

void LookBack::Append(std::span<const TokenId> tokens, std::span<const uint8_t> dead) {
  ENGRAM_CHECK(dead.empty() || dead.size() == tokens.size());
  const auto keep = static_cast<size_t>(keep_);
  if (tokens.size() > keep) {
    if (!dead.empty()) dead = dead.last(keep);
    tokens = tokens.last(keep);
  }
  // Room for the old and the new at once, so that a growing sequence allocates only here, once.
  tokens_.reserve(2 * keep);
  dead_.reserve(2 * keep);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  if (dead.empty()) {
    dead_.insert(dead_.end(), tokens.size(), 0);
  } else {
    dead_.insert(dead_.end(), dead.begin(), dead.end());
  }
  if (tokens_.size() > keep) {
    const auto excess = static_cast<ptrdiff_t>(tokens_.size() - keep);
    tokens_.erase(tokens_.begin(), tokens_.begin() + excess);
    dead_.erase(dead_.begin(), dead_.begin() + excess);
  }
}

std::span<const uint8_t> LookBack::dead() const {
  const bool none = std::all_of(dead_.begin(), dead_.end(), [](uint8_t dead) { return dead == 0; });
  return none ? std::span<const uint8_t>() : std::span<const uint8_t>(dead_);
}

}  // namespace engram
