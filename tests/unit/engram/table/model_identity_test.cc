#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "engram/table/table_layout.h"

namespace engram {
namespace {

TableSpec Spec() {
  TableSpec spec;
  spec.hash.variant = Variant::kV41;
  spec.hash.max_ngram_size = 4;
  spec.hash.head_count = 8;
  spec.hash.base_sizes = {16000000, 16000000, 16000000};
  spec.hash.layer_ids = {1, 14};
  spec.hash.compressed_vocab_size = 99092;
  spec.hash.pad_id = 2;
  spec.row_values = 256;
  return spec;
}

// The figure comes from Python's struct and hashlib over docs/formats/model_identity.md.
TEST(ModelIdentityTest, EqualsAnIndependentEncoding) {
  const std::vector<int32_t> compression = {0, 1, 2, 3, 4};
  EXPECT_EQ(ModelIdentityHex(ComputeModelIdentity(Spec(), compression)),
            "d4ba694770231bdad3c026761228ad500c9dfb26e46e83b06a456728b3f4c7d5");
}

TEST(ModelIdentityTest, EveryFieldMatters) {
  const std::vector<int32_t> compression = {0, 1, 2, 3, 4};
  const ModelIdentity identity = ComputeModelIdentity(Spec(), compression);
  const auto differs = [&](auto change) {
    TableSpec spec = Spec();
    change(spec);
    return ComputeModelIdentity(spec, compression) != identity;
  };
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.variant = Variant::kDemo; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.max_ngram_size = 5; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.head_count = 7; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.base_sizes[2] += 1; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.layer_ids = {14, 1}; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.compressed_vocab_size = 99045; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.pad_id = 3; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.hash.seed = 1; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.row_format = RowFormat::kBf16; }));
  EXPECT_TRUE(differs([](TableSpec& s) { s.row_values = 128; }));
}

TEST(ModelIdentityTest, EveryCompressedIdMatters) {
  std::vector<int32_t> compression(1000);
  std::iota(compression.begin(), compression.end(), 0);
  const ModelIdentity identity = ComputeModelIdentity(Spec(), compression);
  for (const size_t at : {size_t{0}, size_t{500}, size_t{999}}) {
    auto changed = compression;
    changed[at] += 1;
    EXPECT_NE(ComputeModelIdentity(Spec(), changed), identity) << at;
  }
  compression.push_back(0);
  EXPECT_NE(ComputeModelIdentity(Spec(), compression), identity);
}

}  // namespace
}  // namespace engram
