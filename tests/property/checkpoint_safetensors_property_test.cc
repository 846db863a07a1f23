// Safetensors files: what is written comes back, and no shorter file is taken for it.
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "engram/checkpoint/safetensors.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

struct Planned {
  std::vector<TensorToWrite> tensors;
  std::map<std::string, std::vector<std::byte>> bytes;
};

Planned ArbitraryTensors() {
  Planned planned;
  const auto count = *rc::gen::inRange<size_t>(0, 8);
  uint32_t next = *rc::gen::arbitrary<uint32_t>();
  for (size_t i = 0; i < count; ++i) {
    TensorToWrite tensor;
    // Names with quotes, controls and other scripts, all distinct.
    tensor.name = *rc::gen::element<std::string>("w", "a\"b\\c", "tab\t", "Größe", "") + "." +
                  std::to_string(i);
    tensor.dtype =
        *rc::gen::element(Dtype::kF8E4M3, Dtype::kF8E8M0, Dtype::kBf16, Dtype::kF16, Dtype::kF32);
    const auto rank = *rc::gen::inRange<size_t>(0, 4);
    size_t bytes = DtypeBytes(tensor.dtype);
    for (size_t r = 0; r < rank; ++r) {
      tensor.shape.push_back(*rc::gen::inRange<int64_t>(0, 20));
      bytes *= static_cast<size_t>(tensor.shape.back());
    }
    std::vector<std::byte>& data = planned.bytes[tensor.name];
    for (size_t b = 0; b < bytes; ++b) {
      next = next * 1664525u + 1013904223u;
      data.push_back(static_cast<std::byte>(next >> 24));
    }
    planned.tensors.push_back(std::move(tensor));
  }
  return planned;
}

void Write(const Planned& planned, const std::filesystem::path& file) {
  auto writer = SafetensorsWriter::Create(file, planned.tensors);
  RC_ASSERT(writer.has_value());
  for (const TensorToWrite& tensor : planned.tensors) {
    RC_ASSERT(writer->Append(planned.bytes.at(tensor.name)).ok());
  }
  RC_ASSERT(writer->Finish().ok());
}

RC_GTEST_PROP(SafetensorsProperty, WrittenTensorsComeBack, ()) {
  const test::ScratchDir dir;
  const Planned planned = ArbitraryTensors();
  Write(planned, dir.path() / "model.safetensors");
  const auto index = TensorIndex::Open(dir.path());
  RC_ASSERT(index.has_value());
  RC_ASSERT(index->tensors().size() == planned.tensors.size());
  for (const TensorToWrite& tensor : planned.tensors) {
    const TensorInfo* info = index->Find(tensor.name);
    RC_ASSERT(info != nullptr);
    RC_ASSERT(info->dtype == tensor.dtype);
    RC_ASSERT(info->shape == tensor.shape);
    const auto& expected = planned.bytes.at(tensor.name);
    RC_ASSERT(info->byte_count == expected.size());
    auto reader = TensorReader::Open(*info);
    RC_ASSERT(reader.has_value());
    const auto from = *rc::gen::inRange<size_t>(0, expected.size() + 1);
    std::vector<std::byte> got(expected.size() - from);
    RC_ASSERT(reader->Read(from, got).ok());
    RC_ASSERT(std::equal(got.begin(), got.end(), expected.begin() + static_cast<long>(from)));
  }
}

RC_GTEST_PROP(SafetensorsProperty, AnyShorterFileIsRefused, ()) {
  const test::ScratchDir dir;
  const auto file = dir.path() / "model.safetensors";
  Write(ArbitraryTensors(), file);
  const auto bytes = std::filesystem::file_size(file);
  std::filesystem::resize_file(file, *rc::gen::inRange<uint64_t>(0, bytes));
  const auto index = TensorIndex::Open(dir.path());
  RC_ASSERT(!index.has_value());
  RC_ASSERT(index.error().code() == StatusCode::kMalformed);
}

}  // namespace
}  // namespace engram
