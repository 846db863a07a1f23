// A safetensors header: what is accepted must lie inside the file, tensor after tensor. The input
// is eight bytes of file size, then the JSON.
#include <cstdint>
#include <cstring>
#include <string_view>

#include "engram/base/check.h"
#include "engram/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint64_t data_bytes = 0;
  if (size < sizeof(data_bytes)) return 0;
  std::memcpy(&data_bytes, data, sizeof(data_bytes));
  const std::string_view json(reinterpret_cast<const char*>(data) + sizeof(data_bytes),
                              size - sizeof(data_bytes));
  const uint64_t data_start = 8 + json.size();
  uint64_t file_bytes = 0;
  if (__builtin_add_overflow(data_start, data_bytes, &file_bytes)) return 0;

  const auto tensors = engram::ParseSafetensorsHeader(json, data_start, file_bytes, "fuzz");
  if (tensors.has_value()) {
    uint64_t covered = 0;
    for (const auto& tensor : *tensors) {
      ENGRAM_CHECK(tensor.file_offset >= data_start);
      ENGRAM_CHECK(tensor.file_offset <= file_bytes);
      ENGRAM_CHECK(tensor.byte_count <= file_bytes - tensor.file_offset);
      covered += tensor.byte_count;
      if (engram::DtypeBytes(tensor.dtype) == 0) continue;
      uint64_t bytes = engram::DtypeBytes(tensor.dtype);
      for (const int64_t extent : tensor.shape) {
        ENGRAM_CHECK(extent >= 0);
        bytes *= static_cast<uint64_t>(extent);
      }
      ENGRAM_CHECK(bytes == tensor.byte_count);
    }
    ENGRAM_CHECK(covered == data_bytes);
  } else {
    ENGRAM_CHECK(!tensors.error().message().empty());
  }

  const auto index = engram::ParseSafetensorsIndex(json, "fuzz");
  if (index.has_value()) {
    for (const auto& [name, file] : *index) {
      ENGRAM_CHECK(!file.empty() && file.find('/') == std::string::npos && file != "..");
    }
  }
  return 0;
}
