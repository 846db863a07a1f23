// The six golden cases: multipliers, primes, table rows and hash ids, bit for bit.
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engram/hash/ngram_hasher.h"

namespace engram {
namespace {

using nlohmann::json;

const json& Golden() {
  static const json golden = [] {
    std::ifstream file(ENGRAM_TEST_DATA "/golden/engram_hash_golden.json");
    return json::parse(file);
  }();
  return golden;
}

struct GoldenCase {
  HashSpec spec;
  std::vector<int32_t> compression;
  bool has_offsets = false;
};

GoldenCase ReadCase(const json& data) {
  const json& config = data.at("config");
  GoldenCase out;
  out.has_offsets = data.at("semantics") == "v41_table_row_ids";
  out.spec.variant = out.has_offsets ? Variant::kV41 : Variant::kDemo;
  out.spec.max_ngram_size = config.at("max_ngram_size");
  out.spec.head_count = config.at("n_head_per_ngram");
  out.spec.base_sizes = config.at("engram_vocab_size").get<std::vector<int64_t>>();
  out.spec.layer_ids = config.at("layer_ids").get<std::vector<int32_t>>();
  out.spec.compressed_vocab_size = data.at("compressed_vocab_size");
  out.spec.pad_id = data.at("compressed_pad_id");
  out.spec.seed = config.at("seed");
  const std::string rule = data.at("compression");
  out.compression.resize(config.at("tokenizer_vocab").get<size_t>());
  std::iota(out.compression.begin(), out.compression.end(), 0);
  if (rule == "i_div_2") {
    for (int32_t& id : out.compression) id /= 2;
  } else if (rule == "mod_99092") {
    for (int32_t& id : out.compression) id %= 99092;
  } else {
    EXPECT_EQ(rule, "identity");
  }
  return out;
}

class GoldenTest : public testing::TestWithParam<size_t> {
 protected:
  const json& data() const { return Golden().at("cases").at(GetParam()); }
};

TEST_P(GoldenTest, MultipliersAreThePublishedOnes) {
  const GoldenCase golden = ReadCase(data());
  ASSERT_TRUE(ValidateHashSpec(golden.spec).ok()) << ValidateHashSpec(golden.spec).ToString();
  for (const int32_t layer_id : golden.spec.layer_ids) {
    std::vector<uint64_t> expected;
    for (const json& text : data().at("multipliers").at(std::to_string(layer_id))) {
      expected.push_back(std::stoull(text.get<std::string>()));
    }
    EXPECT_EQ(Multipliers(golden.spec, layer_id), expected) << "layer " << layer_id;
  }
}

TEST_P(GoldenTest, ColumnSizesAndTableRowsAreThePublishedOnes) {
  const GoldenCase golden = ReadCase(data());
  const auto sizes = ColumnSizes(golden.spec);
  ASSERT_TRUE(sizes.has_value()) << sizes.error().ToString();
  for (size_t i = 0; i < golden.spec.layer_ids.size(); ++i) {
    const std::string layer = std::to_string(golden.spec.layer_ids[i]);
    std::vector<uint32_t> expected;
    for (const json& order : data().at("prime_sizes").at(layer)) {
      for (const json& prime : order) expected.push_back(prime);
    }
    EXPECT_EQ((*sizes)[i], expected) << "layer " << layer;
    EXPECT_EQ(std::accumulate((*sizes)[i].begin(), (*sizes)[i].end(), uint64_t{0}),
              data().at("table_rows").at(layer).get<uint64_t>());
  }
}

TEST_P(GoldenTest, EveryHashIdIsThePublishedOne) {
  const GoldenCase golden = ReadCase(data());
  const auto hasher = NgramHasher::Create(golden.spec, golden.compression);
  ASSERT_TRUE(hasher.has_value()) << hasher.error().ToString();
  size_t compared = 0;
  const auto columns = static_cast<size_t>(golden.spec.column_count());
  for (size_t sequence = 0; sequence < data().at("input_ids").size(); ++sequence) {
    const auto tokens = data().at("input_ids").at(sequence).get<std::vector<TokenId>>();
    std::vector<uint8_t> dead;
    if (!data().at("dead_mask").is_null()) {
      for (const bool bit : data().at("dead_mask").at(sequence)) dead.push_back(bit ? 1 : 0);
    }
    const TokenRun run{.history = {}, .tokens = tokens, .history_dead = {}, .tokens_dead = dead};
    ASSERT_TRUE(hasher->Validate(run).ok()) << hasher->Validate(run).ToString();
    for (size_t layer = 0; layer < golden.spec.layer_ids.size(); ++layer) {
      std::vector<uint32_t> buckets(columns * tokens.size());
      hasher->Hash(static_cast<int32_t>(layer), run, buckets.data(), tokens.size());
      const json& expected =
          data().at("hash_ids").at(std::to_string(golden.spec.layer_ids[layer])).at(sequence);
      ASSERT_EQ(expected.size(), tokens.size());
      for (size_t t = 0; t < tokens.size(); ++t) {
        uint64_t offset = 0;
        for (size_t column = 0; column < columns; ++column, ++compared) {
          ASSERT_EQ(buckets[column * tokens.size() + t] + offset,
                    expected.at(t).at(column).get<uint64_t>())
              << "layer index " << layer << " token " << t << " column " << column;
          if (golden.has_offsets) offset += hasher->column_sizes()[layer][column];
        }
      }
    }
  }
  EXPECT_GT(compared, 0u);
}

std::string CaseName(const testing::TestParamInfo<size_t>& test) {
  return Golden().at("cases").at(test.param).at("name").get<std::string>();
}
INSTANTIATE_TEST_SUITE_P(AllCases, GoldenTest,
                         testing::Range(size_t{0}, Golden().at("cases").size()), CaseName);

TEST(GoldenFileTest, HoldsSixCases) { EXPECT_EQ(Golden().at("cases").size(), 6u); }

}  // namespace
}  // namespace engram
