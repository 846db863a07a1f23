#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engram/checkpoint/model_files.h"
#include "engram/tokenizer/tokenizer.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

// A small v41 model: two layers of 6 columns of about 100 rows of 32 values.
class ModelTablesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::copy_file(fs::path(ENGRAM_TEST_DATA) / "tiny_tokenizer.json", dir() / "tokenizer.json");
    const auto tokenizer = Tokenizer::Load(dir() / "tokenizer.json");
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().ToString();
    compressed_vocab_size_ = CompressVocabulary(*tokenizer)->compressed_vocab_size;
    config_ = {{"vocab_size", 600},  // padded: more than the tokenizer's
               {"engram_layer_ids", {1, 3}},
               {"engram_max_ngram_size", 4},
               {"engram_vocab_size", 100},
               {"engram_n_heads", 2},
               {"engram_head_dim", 32},
               {"engram_pad_token_id", 2},
               {"engram_compressed_vocab_size", compressed_vocab_size_}};
    WriteConfig();
    const auto tables = ReadModelTables(dir(), false);
    ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
    const auto layout = TableLayout::Create(tables->spec);
    ASSERT_TRUE(layout.has_value());
    rows_ = {static_cast<int64_t>(layout->row_count(0)),
             static_cast<int64_t>(layout->row_count(1))};
    config_["engram_num_embeddings"] = rows_;
    WriteConfig();
  }

  [[nodiscard]] const fs::path& dir() const { return scratch_.path(); }
  void WriteConfig() { std::ofstream(dir() / "config.json") << config_.dump(); }

  // One file with these tensors, all bytes zero.
  void WriteTensors(const std::vector<TensorToWrite>& tensors) {
    auto writer = SafetensorsWriter::Create(dir() / "model.safetensors", tensors);
    ASSERT_TRUE(writer.has_value()) << writer.error().ToString();
    for (const TensorToWrite& tensor : tensors) {
      size_t bytes = DtypeBytes(tensor.dtype);
      for (const int64_t size : tensor.shape) bytes *= static_cast<size_t>(size);
      ASSERT_EQ(writer->Append(std::vector<std::byte>(bytes)), Status());
    }
    ASSERT_EQ(writer->Finish(), Status());
  }
  [[nodiscard]] std::vector<TensorToWrite> V41Tensors() const {
    return {{"layers.1.engram.embed.weight", Dtype::kF8E4M3, {rows_[0], 32}},
            {"layers.1.engram.embed.scale", Dtype::kF8E8M0, {rows_[0], 1}},
            {"model.layers.3.engram.embed.weight", Dtype::kF8E4M3, {rows_[1], 32}},
            {"model.layers.3.engram.embed.scale", Dtype::kF8E8M0, {rows_[1], 1}}};
  }
  void Refuses(StatusCode code, const std::string& what, bool tensors_wanted = true) {
    const auto tables = ReadModelTables(dir(), tensors_wanted);
    ASSERT_FALSE(tables.has_value());
    EXPECT_EQ(tables.error().code(), code) << tables.error().ToString();
    EXPECT_THAT(tables.error().message(), AllOf(HasSubstr(what), HasSubstr(dir().string())));
  }

  test::ScratchDir scratch_;
  json config_;
  int64_t compressed_vocab_size_ = 0;
  std::vector<int64_t> rows_;
};

TEST_F(ModelTablesTest, FolderIsReadWithoutItsRows) {
  WriteTensors(V41Tensors());
  const auto tables = ReadModelTables(dir(), true);
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_EQ(tables->spec.row_format, RowFormat::kF8E4M3ScaleE8M0);
  EXPECT_EQ(tables->spec.row_values, 32u);
  EXPECT_EQ(tables->spec.hash.compressed_vocab_size, compressed_vocab_size_);
  EXPECT_EQ(tables->spec.hash.pad_id, tables->compression[2]);
  EXPECT_EQ(tables->identity, ComputeModelIdentity(tables->spec, tables->compression));
  // The compression is over the tokenizer's ids, not over config.json's padded vocab_size.
  EXPECT_LT(tables->compression.size(), 600u);
  EXPECT_EQ(ReadModelTables(dir(), false)->identity, tables->identity);

  const auto layout = TableLayout::Create(tables->spec);
  const auto found = FindTableTensors(*TensorIndex::Open(dir()), *layout);
  ASSERT_TRUE(found.has_value()) << found.error().ToString();
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[1].layer_id, 3);
  EXPECT_EQ((*found)[1].weight.name, "model.layers.3.engram.embed.weight");
  ASSERT_TRUE((*found)[1].scale.has_value());
}

TEST_F(ModelTablesTest, WrongVocabularyIsAnotherModel) {
  config_["engram_compressed_vocab_size"] = compressed_vocab_size_ + 1;
  WriteConfig();
  Refuses(StatusCode::kWrongModel,
          "config.json says engram_compressed_vocab_size = " +
              std::to_string(compressed_vocab_size_ + 1) + ", tokenizer.json gives " +
              std::to_string(compressed_vocab_size_),
          false);
}

TEST_F(ModelTablesTest, PadTokenOutsideTheVocabularyIsAnotherModel) {
  config_["engram_pad_token_id"] = 100000;
  WriteConfig();
  Refuses(StatusCode::kWrongModel, "the pad token is 100000, tokenizer.json has the ids 0..513",
          false);
}

TEST_F(ModelTablesTest, WrongRowCountInConfigIsAnotherModel) {
  config_["engram_num_embeddings"] = {rows_[0], rows_[1] + 128};
  WriteConfig();
  Refuses(StatusCode::kWrongModel,
          "engram_num_embeddings[1] = " + std::to_string(rows_[1] + 128) + ", expected " +
              std::to_string(rows_[1]) + " for layer 3",
          false);
}

TEST_F(ModelTablesTest, PaddedTableIsRefusedWithBothShapes) {
  auto tensors = V41Tensors();
  tensors[2].shape[0] += 51;
  WriteTensors(tensors);
  Refuses(StatusCode::kWrongModel,
          "tensor \"model.layers.3.engram.embed.weight\" expected shape [" +
              std::to_string(rows_[1]) + ", 32], found [" + std::to_string(rows_[1] + 51) +
              ", 32]");
}

TEST_F(ModelTablesTest, WrongDtypeOrWidthOrMissingTensorIsNamed) {
  auto tensors = V41Tensors();
  tensors[0].dtype = Dtype::kBf16;
  WriteTensors(tensors);
  Refuses(StatusCode::kMalformed,
          "tensor \"layers.1.engram.embed.weight\" expected dtype F8_E4M3, found BF16");
  tensors = V41Tensors();
  tensors[1].dtype = Dtype::kF8E4M3;
  WriteTensors(tensors);
  Refuses(StatusCode::kMalformed,
          "tensor \"layers.1.engram.embed.scale\" expected dtype F8_E8M0, found F8_E4M3");
  tensors = V41Tensors();
  tensors[1].shape[1] = 2;
  WriteTensors(tensors);
  Refuses(StatusCode::kMalformed, "embed.scale\" expected shape [" + std::to_string(rows_[0]) +
                                      ", 1], found [" + std::to_string(rows_[0]) + ", 2]");
  tensors = V41Tensors();
  tensors.pop_back();
  WriteTensors(tensors);
  Refuses(StatusCode::kNotFound, "no tensor \"layers.3.engram.embed.scale\"");
}

TEST_F(ModelTablesTest, MissingFilesAreNotFound) {
  Refuses(StatusCode::kNotFound, "model.safetensors");
  fs::remove(dir() / "tokenizer.json");
  Refuses(StatusCode::kNotFound, "tokenizer.json", false);
  fs::remove(dir() / "config.json");
  Refuses(StatusCode::kNotFound, "config.json", false);
}

TEST_F(ModelTablesTest, RowsThatCannotBeScaledAreRefused) {
  config_["engram_head_dim"] = 40;
  WriteConfig();
  Refuses(StatusCode::kInvalidArgument, "row_values = 40, expected a multiple of 32", false);
}

TEST_F(ModelTablesTest, DemoTablesTellTheirDtype) {
  config_ = {{"engram_config",
              {{"engram_vocab_size", {100, 100}},
               {"max_ngram_size", 3},
               {"n_embed_per_ngram", 24},
               {"n_head_per_ngram", 2},
               {"layer_ids", {1}},
               {"pad_id", 2}}}};
  WriteConfig();
  const auto tables = ReadModelTables(dir(), false);
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_EQ(tables->spec.row_format, RowFormat::kF32);
  const auto rows = static_cast<int64_t>(TableLayout::Create(tables->spec)->row_count(0));
  const std::string name = "layers.1.engram.multi_head_embedding.embedding.weight";
  const std::pair<Dtype, RowFormat> formats[] = {{Dtype::kBf16, RowFormat::kBf16},
                                                 {Dtype::kF16, RowFormat::kF16},
                                                 {Dtype::kF32, RowFormat::kF32}};
  for (const auto& [dtype, format] : formats) {
    WriteTensors({{name, dtype, {rows, 12}}});
    const auto with_tensors = ReadModelTables(dir(), true);
    ASSERT_TRUE(with_tensors.has_value()) << with_tensors.error().ToString();
    EXPECT_EQ(with_tensors->spec.row_format, format);
  }
  WriteTensors({{name, Dtype::kF8E4M3, {rows, 12}}});
  Refuses(StatusCode::kMalformed, "expected dtype F32, BF16 or F16, found F8_E4M3");
  config_["engram_config"]["compressed_vocab_size"] = 7;
  WriteConfig();
  Refuses(StatusCode::kWrongModel, "engram_config.compressed_vocab_size = 7", false);
}

}  // namespace
}  // namespace engram
