// Both attention kernels over the paged cache, fed in chunks by the backend's own host logic,
// against softmax in double precision on the same bf16 inputs.
#include <algorithm>

#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/kv_pages.h"
#include "model_worker/cuda/step_inputs.h"
#include "tests/gpu/gpu_test.h"

namespace engram::gpu {
namespace {

constexpr float kEps = 1e-6f;

struct Sequences {
  HeadShape shape;
  std::vector<uint32_t> lengths;
  std::vector<std::vector<float>> qkv;  // [sequence][tokens * qkv_width], bf16 numbers
  std::vector<float> q_norm, k_norm;    // [head_dim]
  std::vector<float> cosine, sine;      // [positions][head_dim / 2]
};

Sequences MakeSequences(const HeadShape& shape, const std::vector<uint32_t>& lengths) {
  Sequences s{shape, lengths, {}, {}, {}, {}, {}};
  uint32_t seed = 1;
  for (const uint32_t length : lengths) {
    s.qkv.push_back(
        ToFloats(ToBf16(RandomFloats(size_t{length} * shape.qkv_width(), 0, 1.5f, ++seed))));
  }
  s.q_norm = RandomFloats(shape.head_dim, 1, 0.3f, 77);
  s.k_norm = RandomFloats(shape.head_dim, 1, 0.3f, 78);
  const uint32_t positions = *std::max_element(lengths.begin(), lengths.end());
  const uint32_t half = shape.head_dim / 2;
  for (uint32_t p = 0; p < positions; ++p) {
    for (uint32_t i = 0; i < half; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / shape.head_dim);
      s.cosine.push_back(static_cast<float>(std::cos(angle)));
      s.sine.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return s;
}

// Normalised and turned, rounded to bf16 as the cache has it.
std::vector<float> Turned(const Sequences& s, const float* x, const std::vector<float>& norm,
                          uint32_t position) {
  const size_t dim = s.shape.head_dim, half = dim / 2;
  double sum = 0;
  for (size_t i = 0; i < dim; ++i) sum += double{x[i]} * x[i];
  const double inverse = 1 / std::sqrt(sum / static_cast<double>(dim) + kEps);
  std::vector<float> out(dim);
  for (size_t i = 0; i < half; ++i) {
    const double a = x[i] * inverse * norm[i], b = x[i + half] * inverse * norm[i + half];
    const double c = s.cosine[position * half + i], t = s.sine[position * half + i];
    out[i] = Rounded(static_cast<float>(a * c - b * t));
    out[i + half] = Rounded(static_cast<float>(b * c + a * t));
  }
  return out;
}

// One head of one token.
std::vector<double> Attend(const Sequences& s, size_t sequence, uint32_t position, uint32_t head) {
  const HeadShape& shape = s.shape;
  const size_t dim = shape.head_dim, width = shape.qkv_width();
  const uint32_t kv_head = head / (shape.heads / shape.kv_heads);
  const float* qkv = s.qkv[sequence].data();
  const auto query = Turned(s, qkv + position * width + head * dim, s.q_norm, position);
  std::vector<double> scores;
  double maximum = -1e300;
  for (uint32_t p = 0; p <= position; ++p) {
    const auto key = Turned(s, qkv + p * width + (shape.heads + kv_head) * dim, s.k_norm, p);
    double score = 0;
    for (size_t i = 0; i < dim; ++i) score += double{query[i]} * key[i];
    scores.push_back(score / std::sqrt(static_cast<double>(dim)));
    maximum = std::max(maximum, scores.back());
  }
  std::vector<double> out(dim, 0.0);
  double sum = 0;
  for (uint32_t p = 0; p <= position; ++p) {
    const double weight = std::exp(scores[p] - maximum);
    sum += weight;
    const float* value = qkv + p * width + (shape.heads + shape.kv_heads + kv_head) * dim;
    for (size_t i = 0; i < dim; ++i) out[i] += weight * value[i];
  }
  for (double& v : out) v /= sum;
  return out;
}

// Runs all sequences together, `chunk(sequence, position)` tokens of each in a step, and compares
// some tokens of each.
template <typename Chunk>
void ExpectAttention(const Sequences& s, const Chunk& chunk, const std::string& name) {
  const HeadShape& shape = s.shape;
  const auto count = static_cast<uint32_t>(s.lengths.size());
  const uint32_t longest = *std::max_element(s.lengths.begin(), s.lengths.end());
  const uint32_t per_slot = PagesFor(longest);
  KvPages pages(count, per_slot, count * per_slot + 3);
  auto keys =
      Poisoned<Bf16>(size_t{pages.page_count()} * shape.kv_heads * kPageTokens * shape.head_dim);
  auto values = Poisoned<Bf16>(keys.size());
  auto page_table = Poisoned<int32_t>(size_t{count} * per_slot);
  const auto q_norm = Upload(s.q_norm);
  const auto k_norm = Upload(s.k_norm);
  const auto cosine = Upload(s.cosine);
  const auto sine = Upload(s.sine);
  const KvCache cache{keys.data(), values.data(), page_table.data(), per_slot};
  std::vector<uint32_t> next(count, 0);
  std::vector<float> got;
  std::vector<double> expected;
  while (true) {
    std::vector<std::vector<TokenId>> tokens;
    std::vector<SequenceStep> steps;
    std::vector<float> qkv;
    tokens.reserve(count);
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t left = s.lengths[i] - next[i];
      if (left == 0) continue;
      const uint32_t take = std::min(left, chunk(i, next[i]));
      tokens.emplace_back(take, 1);
      steps.push_back({SequenceSlot(i), next[i], tokens.back(), true});
      const auto begin = s.qkv[i].begin() + static_cast<ptrdiff_t>(next[i] * shape.qkv_width());
      qkv.insert(qkv.end(), begin, begin + static_cast<ptrdiff_t>(take * shape.qkv_width()));
    }
    if (steps.empty()) break;
    std::vector<PageEntry> entries;
    ASSERT_TRUE(pages.Extend(steps, &entries).ok());
    const StepCounts counts = CountStep(steps, entries.size(), shape.kv_heads);
    const StepOffsets at = PlaceStep(counts);
    std::vector<int32_t> ints(at.int_count);
    FillStep(steps, entries, counts, ints.data());
    const auto inputs = Upload(ints);
    qkv.resize(size_t{counts.rows} * shape.qkv_width(), 0.0f);
    auto device_qkv = Upload(ToBf16(qkv));
    const size_t out_width = size_t{shape.heads} * shape.head_dim;
    auto out = Poisoned<Bf16>(counts.rows * out_width);
    auto partials = Poisoned<float>(size_t{std::max(counts.decodes, 1u)} * counts.splits.count *
                                    shape.heads * (shape.head_dim + 2));
    const RowPlaces places{inputs.data() + at.slots, inputs.data() + at.positions};
    ExpectCuda(LaunchSetPages(inputs.data() + at.page_indices, inputs.data() + at.page_values,
                              counts.pages, page_table.data(), nullptr));
    ExpectCuda(LaunchPrepareAttention(shape, places, counts.rows, q_norm.data(), k_norm.data(),
                                      kEps, cosine.data(), sine.data(), cache, device_qkv.data(),
                                      nullptr));
    ExpectCuda(LaunchDecodeAttention(shape, places, inputs.data() + at.decode_rows, counts.decodes,
                                     counts.splits, cache, device_qkv.data(), partials.data(),
                                     out.data(), nullptr));
    ExpectCuda(LaunchPrefillAttention(shape, places, inputs.data() + at.tile_rows,
                                      inputs.data() + at.tile_lengths, counts.tiles, cache,
                                      device_qkv.data(), out.data(), nullptr));
    const auto host = Download(out);
    size_t row = 0;
    for (const SequenceStep& step : steps) {
      const uint32_t slot = step.slot.value();
      for (uint32_t t = 0; t < step.tokens.size(); ++t, ++row) {
        const uint32_t position = step.position + t;
        const bool edge = position % kPageTokens < 2 || position % kPageTokens == 63 ||
                          position + 1 == s.lengths[slot];
        if (!edge && position % 29 != 0) continue;
        for (uint32_t head = 0; head < shape.heads; ++head) {
          const auto wanted = Attend(s, slot, position, head);
          expected.insert(expected.end(), wanted.begin(), wanted.end());
          for (size_t i = 0; i < shape.head_dim; ++i) {
            got.push_back(ToFloat(host[row * out_width + head * shape.head_dim + i]));
          }
        }
      }
      next[slot] += static_cast<uint32_t>(step.tokens.size());
    }
  }
  const double error = RelativeError(got, expected);
  EXPECT_LT(error, 5e-3) << name;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    worst = std::max(worst, std::abs(got[i] - expected[i]));
    if (std::isnan(got[i])) worst = NAN;
  }
  EXPECT_LT(worst, 0.08) << name;
  printf("%s: error %.2e, worst %.2e\n", name.c_str(), error, worst);
}

class AttentionTest : public GpuTest, public testing::WithParamInterface<HeadShape> {};

TEST_P(AttentionTest, DecodeEqualsSoftmaxTokenByToken) {
  const Sequences s = MakeSequences(GetParam(), {70, 1, 129, 64, 40});
  ExpectAttention(
      s, [](uint32_t, uint32_t) { return 1u; }, "decode");
}

TEST_P(AttentionTest, PrefillEqualsSoftmaxHoweverItIsCut) {
  const Sequences s = MakeSequences(GetParam(), {200, 2, 65, 64, 130});
  ExpectAttention(
      s, [](uint32_t, uint32_t) { return 1000u; }, "prefill whole");
  ExpectAttention(
      s, [](uint32_t, uint32_t) { return 37u; }, "prefill in 37");
}

TEST_P(AttentionTest, ManyPartsOfALongSequenceAreMerged) {
  // Prefill, then decode across the ends of parts and pages; others prefill beside it.
  const Sequences s = MakeSequences(GetParam(), {530, 258, 90});
  ExpectAttention(
      s,
      [](uint32_t sequence, uint32_t position) {
        if (sequence == 0) return position < 500 ? 250u : 1u;
        return sequence == 1 ? (position < 250 ? 125u : 1u) : 5u;
      },
      "mixed");
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         testing::Values(HeadShape{4, 2, 24}, HeadShape{8, 1, 32},
                                         HeadShape{6, 2, 64}, HeadShape{8, 2, 128},
                                         HeadShape{3, 3, 16}, HeadShape{12, 1, 128},
                                         HeadShape{10, 2, 104}),
                         [](const auto& tested) {
                           return std::to_string(tested.param.heads) + "over" +
                                  std::to_string(tested.param.kv_heads) + "of" +
                                  std::to_string(tested.param.head_dim);
                         });

}  // namespace
}  // namespace engram::gpu
