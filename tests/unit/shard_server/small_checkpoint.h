// A model folder with small tables and a tiny tokenizer, and what its rows should be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/safetensors.h"
#include "engram/table/table_layout.h"
#include "engram/tokenizer/tokenizer.h"

namespace engram::test {

class SmallCheckpoint {
 public:
  SmallCheckpoint(const std::filesystem::path& dir, Variant variant, RowFormat format) : dir_(dir) {
    std::filesystem::create_directories(dir);
    std::filesystem::copy_file(std::string(ENGRAM_TEST_DATA) + "/tiny_tokenizer.json",
                               dir / "tokenizer.json",
                               std::filesystem::copy_options::overwrite_existing);
    const Tokenizer tokenizer = Tokenizer::Load(dir / "tokenizer.json").value();
    const TokenCompression compression = CompressVocabulary(tokenizer).value();
    std::ofstream config(dir / "config.json");
    if (variant == Variant::kV41) {
      config << R"({"engram_layer_ids": [1, 14], "engram_max_ngram_size": 3, "engram_n_heads": 2,
                    "engram_vocab_size": 1000, "engram_head_dim": 64, "engram_pad_token_id": 2,
                    "engram_compressed_vocab_size": )"
             << compression.compressed_vocab_size << "}";
    } else {
      config << R"({"engram_config": {"layer_ids": [1, 15], "max_ngram_size": 3,
                    "n_head_per_ngram": 2, "engram_vocab_size": [1000, 900],
                    "n_embed_per_ngram": 80}})";
    }
    config.close();
    const ModelTables tables = ReadModelTables(dir, false).value();
    TableSpec spec = tables.spec;
    spec.row_format = format;
    layout_ = std::make_shared<const TableLayout>(TableLayout::Create(spec).value());
    WriteTensors();
    identity_ = ReadModelTables(dir, true).value().identity;
  }

  const std::filesystem::path& dir() const { return dir_; }
  std::filesystem::path tensor_file() const { return dir_ / "model.safetensors"; }
  const std::shared_ptr<const TableLayout>& layout() const { return layout_; }
  const ModelIdentity& identity() const { return identity_; }

  // [row_bytes] values, then scales.
  std::vector<std::byte> Row(int32_t layer_index, uint64_t row) const {
    const Tensors& layer = layers_[static_cast<size_t>(layer_index)];
    std::vector<std::byte> bytes(
        layer.weight.begin() + static_cast<int64_t>(row * weight_bytes_),
        layer.weight.begin() + static_cast<int64_t>((row + 1) * weight_bytes_));
    bytes.insert(bytes.end(), layer.scale.begin() + static_cast<int64_t>(row * scale_bytes_),
                 layer.scale.begin() + static_cast<int64_t>((row + 1) * scale_bytes_));
    return bytes;
  }

 private:
  struct Tensors {
    std::vector<std::byte> weight;
    std::vector<std::byte> scale;
  };

  void WriteTensors() {
    const TableSpec& spec = layout_->spec();
    const bool scaled = spec.row_format == RowFormat::kF8E4M3ScaleE8M0;
    scale_bytes_ = scaled ? spec.row_values / 32 : 0;
    weight_bytes_ = layout_->row_bytes() - scale_bytes_;
    const Dtype dtype = scaled                                ? Dtype::kF8E4M3
                        : spec.row_format == RowFormat::kBf16 ? Dtype::kBf16
                        : spec.row_format == RowFormat::kF16  ? Dtype::kF16
                                                              : Dtype::kF32;
    std::vector<TensorToWrite> names;
    uint64_t seed = 1;
    for (int32_t i = 0; i < layout_->layer_count(); ++i) {
      const int32_t layer_id = spec.hash.layer_ids[static_cast<size_t>(i)];
      const auto rows = static_cast<int64_t>(layout_->row_count(i));
      // The scales stand before the weights, so that an offset mixed up shows.
      if (scaled) names.push_back({TableScaleName(layer_id), Dtype::kF8E8M0, {rows, scale_bytes_}});
      names.push_back({TableWeightName(spec.hash.variant, layer_id),
                       dtype,
                       {rows, static_cast<int64_t>(spec.row_values)}});
      Tensors& layer = layers_.emplace_back();
      Fill(&layer.scale, static_cast<uint64_t>(rows) * scale_bytes_, &seed);
      Fill(&layer.weight, static_cast<uint64_t>(rows) * weight_bytes_, &seed);
    }
    auto writer = SafetensorsWriter::Create(tensor_file(), names).value();
    for (const Tensors& layer : layers_) {
      EXPECT_TRUE(writer.Append(layer.scale).ok());
      EXPECT_TRUE(writer.Append(layer.weight).ok());
    }
    EXPECT_TRUE(writer.Finish().ok());
  }
  static void Fill(std::vector<std::byte>* bytes, uint64_t count, uint64_t* seed) {
    bytes->resize(count);
    for (std::byte& byte : *bytes) {
      *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
      byte = static_cast<std::byte>(*seed >> 56);
    }
  }

  std::filesystem::path dir_;
  std::shared_ptr<const TableLayout> layout_;
  ModelIdentity identity_{};
  std::vector<Tensors> layers_;
  uint32_t weight_bytes_ = 0;
  uint32_t scale_bytes_ = 0;
};

}  // namespace engram::test
