#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/checkpoint/model_files.h"
#include "tests/support/child_process.h"
#include "tools/model_plan.h"
#include "tools/model_writer.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const fs::path kTokenizer = fs::path(ENGRAM_TEST_DATA) / "tiny_tokenizer.json";

MakeModelOptions Tiny(Variant variant) {
  MakeModelOptions options;
  options.variant = variant;
  options.engram_layers = {1, 3};
  options.base_rows = 50;
  options.engram_heads = 2;
  options.row_values = 32;
  options.hidden_size = 16;
  options.intermediate_size = 24;
  options.layer_count = 4;
  options.head_count = 2;
  options.kv_head_count = 1;
  options.head_dim = 8;
  return options;
}

Result<ModelPlan> Plan(const MakeModelOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(kTokenizer));
  ENGRAM_ASSIGN_OR_RETURN(const TokenCompression compression, CompressVocabulary(tokenizer));
  return PlanModel(options, tokenizer, compression);
}

Status Write(const ModelPlan& plan, const fs::path& out, uint64_t seed = 1, bool force = false) {
  ProgressLine progress;
  return WriteModel(plan, {out, kTokenizer, seed, force}, progress);
}

std::map<std::string, std::vector<int64_t>> Shapes(const fs::path& dir) {
  const auto index = TensorIndex::Open(dir);
  EXPECT_TRUE(index.has_value()) << index.error().ToString();
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& [name, info] : index->tensors()) shapes[name] = info.shape;
  return shapes;
}

TEST(MakeModelTest, V41FolderIsReadBackAsPlanned) {
  const test::ScratchDir scratch;
  const auto plan = Plan(Tiny(Variant::kV41));
  ASSERT_TRUE(plan.has_value()) << plan.error().ToString();
  const fs::path out = scratch.path() / "sub" / "model";
  ASSERT_EQ(Write(*plan, out), Status());
  const auto tables = ReadModelTables(out, true);
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_EQ(tables->spec, plan->spec);
  EXPECT_FALSE(fs::exists(scratch.path() / "sub" / "model.partial"));

  const auto shapes = Shapes(out);
  const auto rows = static_cast<int64_t>(plan->row_counts[0]);
  const std::map<std::string, std::vector<int64_t>> expected = {
      {"model.embed_tokens.weight", {514, 16}},
      {"lm_head.weight", {514, 16}},
      {"model.norm.weight", {16}},
      {"model.layers.3.self_attn.q_proj.weight", {16, 16}},
      {"model.layers.3.self_attn.k_proj.weight", {8, 16}},
      {"model.layers.3.self_attn.v_proj.weight", {8, 16}},
      {"model.layers.3.self_attn.o_proj.weight", {16, 16}},
      {"model.layers.3.self_attn.q_norm.weight", {8}},
      {"model.layers.3.self_attn.k_norm.weight", {8}},
      {"model.layers.3.input_layernorm.weight", {16}},
      {"model.layers.3.post_attention_layernorm.weight", {16}},
      {"model.layers.3.mlp.gate_proj.weight", {24, 16}},
      {"model.layers.3.mlp.up_proj.weight", {24, 16}},
      {"model.layers.3.mlp.down_proj.weight", {16, 24}},
      {"layers.1.engram.wkv.weight", {32, 192}},
      {"layers.1.engram.q_weight", {1, 16}},
      {"layers.1.engram.k_weight", {1, 16}},
      {"layers.1.engram.embed.weight", {rows, 32}},
      {"layers.1.engram.embed.scale", {rows, 1}}};
  for (const auto& [name, shape] : expected) {
    ASSERT_EQ(shapes.count(name), 1u) << name;
    EXPECT_EQ(shapes.at(name), shape) << name;
  }
  EXPECT_EQ(shapes.size(), 3u + 4u * 11u + 2u * 5u);
  EXPECT_FALSE(fs::exists(out / "model-00001-of-00002.safetensors"));
  EXPECT_TRUE(fs::exists(out / "model-00003-of-00003.safetensors"));
}

TEST(MakeModelTest, DemoFolderIsReadBackAsPlanned) {
  const test::ScratchDir scratch;
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16, Dtype::kF16}) {
    MakeModelOptions options = Tiny(Variant::kDemo);
    options.table_dtype = dtype;
    options.hash_seed = 11;
    const auto plan = Plan(options);
    ASSERT_TRUE(plan.has_value()) << plan.error().ToString();
    const fs::path out = scratch.path() / std::string(DtypeName(dtype));
    ASSERT_EQ(Write(*plan, out), Status());
    const auto tables = ReadModelTables(out, true);
    ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
    EXPECT_EQ(tables->spec, plan->spec);
    EXPECT_EQ(tables->spec.hash.seed, 11u);
  }
  const auto shapes = Shapes(scratch.path() / "F32");
  const std::map<std::string, std::vector<int64_t>> expected = {
      {"layers.3.engram.value_proj.weight", {16, 128}},
      {"layers.3.engram.value_proj.bias", {16}},
      {"layers.3.engram.key_projs.0.weight", {16, 128}},
      {"layers.3.engram.key_projs.0.bias", {16}},
      {"layers.3.engram.norm1.0.weight", {16}},
      {"layers.3.engram.norm2.0.weight", {16}},
      {"layers.3.engram.short_conv.conv.weight", {16, 1, 4}},
      {"layers.3.engram.short_conv.norms.0.weight", {16}}};
  for (const auto& [name, shape] : expected) {
    ASSERT_EQ(shapes.count(name), 1u) << name;
    EXPECT_EQ(shapes.at(name), shape) << name;
  }
}

TEST(MakeModelTest, SameSeedSameBytes) {
  const test::ScratchDir scratch;
  const auto plan = Plan(Tiny(Variant::kV41));
  ASSERT_TRUE(plan.has_value());
  ASSERT_EQ(Write(*plan, scratch.path() / "a", 5), Status());
  ASSERT_EQ(Write(*plan, scratch.path() / "b", 5), Status());
  ASSERT_EQ(Write(*plan, scratch.path() / "c", 6), Status());
  for (const auto& file : fs::directory_iterator(scratch.path() / "a")) {
    const auto name = file.path().filename();
    const std::string a = test::ReadFile(file.path());
    EXPECT_TRUE(a == test::ReadFile(scratch.path() / "b" / name)) << name;
    if (name.extension() == ".safetensors") {
      EXPECT_FALSE(a == test::ReadFile(scratch.path() / "c" / name)) << name;
    }
  }
}

TEST(MakeModelTest, TablesOnlyAndTiedModelsLackTheirTensors) {
  const test::ScratchDir scratch;
  MakeModelOptions options = Tiny(Variant::kV41);
  options.tables_only = true;
  ASSERT_EQ(Write(*Plan(options), scratch.path() / "tables"), Status());
  EXPECT_EQ(Shapes(scratch.path() / "tables").size(), 4u);
  EXPECT_TRUE(ReadModelTables(scratch.path() / "tables", true).has_value());
  options.tables_only = false;
  options.tie_embeddings = true;
  ASSERT_EQ(Write(*Plan(options), scratch.path() / "tied"), Status());
  EXPECT_EQ(Shapes(scratch.path() / "tied").count("lm_head.weight"), 0u);
}

TEST(MakeModelTest, ExistingFolderStaysUnlessForced) {
  const test::ScratchDir scratch;
  const auto plan = Plan(Tiny(Variant::kV41));
  ASSERT_TRUE(plan.has_value());
  const fs::path out = scratch.path() / "model";
  ASSERT_EQ(Write(*plan, out, 1), Status());
  const std::string before = test::ReadFile(out / "model-00002-of-00003.safetensors");
  const Status refused = Write(*plan, out, 2);
  EXPECT_EQ(refused.code(), StatusCode::kAlreadyExists);
  EXPECT_THAT(refused.message(), HasSubstr("--force"));
  EXPECT_TRUE(before == test::ReadFile(out / "model-00002-of-00003.safetensors"));
  ASSERT_EQ(Write(*plan, out.string() + "/", 2, true), Status());
  EXPECT_FALSE(before == test::ReadFile(out / "model-00002-of-00003.safetensors"));
  EXPECT_FALSE(fs::exists(scratch.path() / "model.replaced"));
}

TEST(MakeModelTest, ForceReplacesOnlyModelFolders) {
  const test::ScratchDir scratch;
  const auto plan = Plan(Tiny(Variant::kV41));
  ASSERT_TRUE(plan.has_value());
  fs::create_directories(scratch.path() / "precious");
  std::ofstream(scratch.path() / "precious" / "thesis.txt") << "x";
  const Status refused = Write(*plan, scratch.path() / "precious", 1, true);
  EXPECT_EQ(refused.code(), StatusCode::kAlreadyExists);
  EXPECT_TRUE(fs::exists(scratch.path() / "precious" / "thesis.txt"));
}

TEST(MakeModelTest, DiskWithoutRoomIsRefusedBeforeWriting) {
  const test::ScratchDir scratch;
  auto plan = Plan(Tiny(Variant::kV41));
  ASSERT_TRUE(plan.has_value());
  plan->total_bytes = uint64_t{1} << 60;
  const Status refused = Write(*plan, scratch.path() / "model");
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("1048576.00 TiB"));
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(MakeModelTest, FailedWriteLeavesNothingBehind) {
  const test::ScratchDir scratch;
  const auto plan = Plan(Tiny(Variant::kV41));
  ASSERT_TRUE(plan.has_value());
  ProgressLine progress;
  const Status failed = WriteModel(
      *plan, {scratch.path() / "model", scratch.path() / "absent.json", 1, false}, progress);
  EXPECT_EQ(failed.code(), StatusCode::kIo);
  EXPECT_THAT(failed.message(), HasSubstr("absent.json"));
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

template <typename Change>
std::string Fault(Change change) {
  MakeModelOptions options = Tiny(Variant::kV41);
  change(options);
  const auto plan = Plan(options);
  if (plan.has_value()) return "accepted";
  EXPECT_EQ(plan.error().code(), StatusCode::kInvalidArgument);
  return plan.error().message();
}

TEST(MakeModelTest, ALargerVocabularyThanTheTokenizersHasRowsForNoToken) {
  const test::ScratchDir scratch;
  MakeModelOptions options = Tiny(Variant::kV41);
  options.vocabulary_size = 700;
  const auto plan = Plan(options);
  ASSERT_TRUE(plan.has_value()) << plan.error().ToString();
  ASSERT_EQ(Write(*plan, scratch.path() / "model"), Status());
  EXPECT_EQ(plan->config["vocab_size"], 700);
  const auto shapes = Shapes(scratch.path() / "model");
  EXPECT_EQ(shapes.at("model.embed_tokens.weight"), (std::vector<int64_t>{700, 16}));
  EXPECT_EQ(shapes.at("lm_head.weight"), (std::vector<int64_t>{700, 16}));
  // Rows and their ids are the tokenizer's: the same tables as without.
  const auto tables = ReadModelTables(scratch.path() / "model", true);
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_EQ(tables->spec, Plan(Tiny(Variant::kV41))->spec);
}

TEST(MakeModelTest, WrongOptionsAreNamed) {
  EXPECT_THAT(Fault([](auto& o) { o.vocabulary_size = 513; }), HasSubstr("--vocab-size is 513"));
  EXPECT_THAT(Fault([](auto& o) { o.kv_head_count = 3; }), HasSubstr("--kv-heads is 3"));
  EXPECT_THAT(Fault([](auto& o) { o.head_dim = 7; }),
              HasSubstr("--head-dim is 7, expected an even"));
  EXPECT_THAT(Fault([](auto& o) { o.engram_layers = {4}; }),
              HasSubstr("a layer of --layers-engram is 4, expected 0..3"));
  EXPECT_THAT(Fault([](auto& o) { o.hidden_size = 0; }), HasSubstr("--hidden is 0"));
  EXPECT_THAT(Fault([](auto& o) { o.row_values = 40; }), HasSubstr("multiple of 32"));
  EXPECT_THAT(Fault([](auto& o) { o.pad_token_id = 514; }), HasSubstr("--pad-token-id is 514"));
  EXPECT_THAT(Fault([](auto& o) { o.base_rows = 0; }), HasSubstr("Engram options"));
  EXPECT_THAT(Fault([](auto& o) { o.engram_layers = {1, 1}; }), HasSubstr("Engram options"));
}

}  // namespace
}  // namespace engram
