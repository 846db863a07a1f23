#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/checkpoint/safetensors.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using test::ScratchDir;
using ::testing::AllOf;
using ::testing::HasSubstr;

void WriteText(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

// One U8-like tensor of F8_E4M3 counting bytes.
void WriteTensor(const fs::path& file, const std::string& name, int64_t bytes) {
  auto writer = SafetensorsWriter::Create(file, {{name, Dtype::kF8E4M3, {bytes}}});
  ASSERT_TRUE(writer.has_value()) << writer.error().ToString();
  std::vector<std::byte> data(static_cast<size_t>(bytes));
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i & 0xff);
  ASSERT_EQ(writer->Append(data), Status());
  ASSERT_EQ(writer->Finish(), Status());
}

std::string OpenFault(const fs::path& dir, StatusCode code = StatusCode::kMalformed) {
  const auto index = TensorIndex::Open(dir);
  if (index.has_value()) return "accepted";
  EXPECT_EQ(index.error().code(), code) << index.error().ToString();
  return index.error().message();
}

TEST(TensorIndexTest, WrittenTensorsComeBack) {
  const ScratchDir dir;
  auto writer = SafetensorsWriter::Create(
      dir.path() / "model.safetensors",
      {{"a", Dtype::kF32, {2, 3}}, {"none", Dtype::kBf16, {0}}, {"b", Dtype::kF8E8M0, {5}}});
  ASSERT_TRUE(writer.has_value());
  std::vector<std::byte> bytes(29);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  ASSERT_EQ(writer->Append(std::span(bytes).first(20)), Status());
  ASSERT_EQ(writer->Append(std::span(bytes).subspan(20)), Status());
  ASSERT_EQ(writer->Finish(), Status());

  const auto index = TensorIndex::Open(dir.path());
  ASSERT_TRUE(index.has_value()) << index.error().ToString();
  ASSERT_EQ(index->tensors().size(), 3u);
  const TensorInfo* b = index->Find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->file_offset % 8, 0u);
  auto reader = TensorReader::Open(*b);
  ASSERT_TRUE(reader.has_value());
  std::vector<std::byte> got(3);
  ASSERT_EQ(reader->Read(2, got), Status());
  EXPECT_EQ(got, (std::vector<std::byte>{std::byte{26}, std::byte{27}, std::byte{28}}));
  EXPECT_EQ(reader->Read(3, got).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(reader->Read(~uint64_t{0}, got).code(), StatusCode::kInvalidArgument);
}

TEST(TensorIndexTest, LargeTensorsKeepTheirBytesThroughTheWritersBuffer) {
  const ScratchDir dir;
  constexpr size_t kBytes = 11u << 20;
  std::vector<std::byte> bytes(kBytes);
  for (size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<std::byte>((i * 2654435761u) >> 13);
  auto writer = SafetensorsWriter::Create(dir.path() / "model.safetensors",
                                          {{"t", Dtype::kF8E4M3, {kBytes}}});
  ASSERT_TRUE(writer.has_value());
  size_t at = 0;
  for (const size_t piece : {size_t{1}, size_t{3000000}, size_t{5000000}, size_t{7}}) {
    ASSERT_EQ(writer->Append(std::span(bytes).subspan(at, piece)), Status());
    at += piece;
  }
  ASSERT_EQ(writer->Append(std::span(bytes).subspan(at)), Status());
  ASSERT_EQ(writer->Finish(), Status());
  const auto index = TensorIndex::Open(dir.path());
  ASSERT_TRUE(index.has_value());
  auto reader = TensorReader::Open(*index->Find("t"));
  ASSERT_TRUE(reader.has_value());
  std::vector<std::byte> got(kBytes);
  ASSERT_EQ(reader->Read(0, got), Status());
  EXPECT_TRUE(got == bytes);
}

TEST(TensorIndexTest, WriterRefusesMoreOrFewerBytesThanAnnounced) {
  const ScratchDir dir;
  auto writer = SafetensorsWriter::Create(dir.path() / "m.safetensors", {{"t", Dtype::kF32, {2}}});
  ASSERT_TRUE(writer.has_value());
  const std::vector<std::byte> five(5);
  ASSERT_EQ(writer->Append(five), Status());
  EXPECT_EQ(writer->Append(five).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(writer->Finish().code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(SafetensorsWriter::Create(dir.path() / "x", {{"t", Dtype::kF32, {-2}}}).has_value());
  EXPECT_FALSE(
      SafetensorsWriter::Create(dir.path() / "x", {{"t", Dtype::kOther, {2}}}).has_value());
  EXPECT_FALSE(SafetensorsWriter::Create(dir.path() / "x",
                                         {{"t", Dtype::kF32, {2}}, {"t", Dtype::kF32, {2}}})
                   .has_value());
}

TEST(TensorIndexTest, NamesAreFoundWithAndWithoutTheModelPrefix) {
  const ScratchDir dir;
  WriteTensor(dir.path() / "a.safetensors", "model.layers.1.engram.embed.weight", 4);
  WriteTensor(dir.path() / "b.safetensors", "layers.2.engram.embed.weight", 4);
  WriteText(dir.path() / "model.safetensors.index.json",
            R"({"weight_map":{"model.layers.1.engram.embed.weight":"a.safetensors",
                              "layers.2.engram.embed.weight":"b.safetensors"}})");
  const auto index = TensorIndex::Open(dir.path());
  ASSERT_TRUE(index.has_value()) << index.error().ToString();
  EXPECT_NE(index->Find("layers.1.engram.embed.weight"), nullptr);
  EXPECT_NE(index->Find("model.layers.2.engram.embed.weight"), nullptr);
  EXPECT_EQ(index->Find("layers.3.engram.embed.weight"), nullptr);
}

TEST(TensorIndexTest, FolderWithoutTensorsIsNotFound) {
  const ScratchDir dir;
  EXPECT_THAT(OpenFault(dir.path(), StatusCode::kNotFound), HasSubstr("neither"));
  EXPECT_THAT(OpenFault(dir.path() / "absent", StatusCode::kNotFound), HasSubstr("absent"));
}

TEST(TensorIndexTest, IndexThatLiesIsRefused) {
  const ScratchDir dir;
  WriteTensor(dir.path() / "a.safetensors", "t", 4);
  WriteTensor(dir.path() / "b.safetensors", "u", 4);
  const auto index = dir.path() / "model.safetensors.index.json";
  WriteText(index, R"({"weight_map":{"t":"b.safetensors","u":"b.safetensors"}})");
  EXPECT_THAT(OpenFault(dir.path()), AllOf(HasSubstr("index.json"),
                                           HasSubstr("tensor \"t\" is expected in b.safetensors")));
  WriteText(index, R"({"weight_map":{"t":"b.safetensors","u":"a.safetensors"}})");
  EXPECT_THAT(OpenFault(dir.path()),
              HasSubstr("tensor \"t\" is expected in b.safetensors, found in a"));
  WriteText(index, R"({"weight_map":{"t":"a.safetensors","v":"gone.safetensors"}})");
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("names \"gone.safetensors\", which is not there"));
  WriteText(index, R"({"weight_map":{"t":"a.safetensors","t":"b.safetensors"}})");
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("\"t\" stands twice"));
  WriteText(index, R"({"weight_map":{"t":"../a.safetensors"}})");
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("in the same folder"));
  WriteText(index, R"({"weight_map":{"t":7}})");
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("not a text"));
  WriteText(index, R"({"metadata":{}})");
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("weight_map"));
  WriteText(index, "{");
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("not JSON"));
}

TEST(TensorIndexTest, TruncatedFilesAreRefused) {
  const ScratchDir dir;
  const auto file = dir.path() / "model.safetensors";
  WriteTensor(file, "t", 1000);
  const auto bytes = fs::file_size(file);
  fs::resize_file(file, bytes - 1);
  EXPECT_THAT(OpenFault(dir.path()), AllOf(HasSubstr("tensor \"t\""), HasSubstr("truncated")));
  fs::resize_file(file, 20);
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("truncated"));
  fs::resize_file(file, 3);
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("truncated"));
}

TEST(TensorIndexTest, HugeHeaderLengthIsRefusedBeforeItIsAllocated) {
  const ScratchDir dir;
  std::string bytes(16, '\0');
  bytes[6] = 1;  // 2^48
  WriteText(dir.path() / "model.safetensors", bytes);
  EXPECT_THAT(OpenFault(dir.path()), HasSubstr("a header of 281474976710656 bytes, at most"));
}

TEST(TensorIndexTest, FileTruncatedAfterOpenIsMalformed) {
  const ScratchDir dir;
  const auto file = dir.path() / "model.safetensors";
  WriteTensor(file, "t", 1000);
  const auto index = TensorIndex::Open(dir.path());
  ASSERT_TRUE(index.has_value());
  auto reader = TensorReader::Open(*index->Find("t"));
  ASSERT_TRUE(reader.has_value());
  fs::resize_file(file, fs::file_size(file) - 500);
  std::vector<std::byte> got(1000);
  const Status status = reader->Read(0, got);
  EXPECT_EQ(status.code(), StatusCode::kMalformed);
  EXPECT_THAT(status.message(), HasSubstr("truncated since"));
}

}  // namespace
}  // namespace engram
