// Safetensors files: headers checked whole before a tensor's bytes are touched; bytes read in
// order, never mapped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engram/base/status.h"

namespace engram {

enum class Dtype : uint8_t { kF8E4M3, kF8E8M0, kBf16, kF16, kF32, kOther };
[[nodiscard]] std::string_view DtypeName(Dtype dtype);  // "F8_E4M3"
[[nodiscard]] uint32_t DtypeBytes(Dtype dtype);         // 0 for kOther

struct TensorInfo {
  std::string name;
  std::filesystem::path file;
  Dtype dtype = Dtype::kOther;
  std::vector<int64_t> shape;
  uint64_t file_offset = 0;  // of the first byte, from the start of the file
  uint64_t byte_count = 0;
};

inline constexpr uint64_t kSafetensorsHeaderBytesMax = 100u << 20;

// Parses the JSON header of one file of `file_bytes` bytes. For ReadHeader and the fuzzer.
// ERRORS: kMalformed naming file, tensor, expected and found: bad JSON, overlap, a hole, an offset
// out of range, a byte count that is not shape x dtype.
[[nodiscard]] Result<std::vector<TensorInfo>> ParseSafetensorsHeader(
    std::string_view header_json, uint64_t data_start, uint64_t file_bytes,
    const std::filesystem::path& file);

// Parses model.safetensors.index.json: tensor name -> file name. For TensorIndex and the fuzzer.
// ERRORS: kMalformed: bad JSON, no weight_map, or a file that is not a plain name in the folder.
[[nodiscard]] Result<std::map<std::string, std::string>> ParseSafetensorsIndex(
    std::string_view index_json, std::string_view name);

// All tensors of a model folder: one `model.safetensors`, or the shards that
// `model.safetensors.index.json` names. Immutable after Open; thread-safe.
class TensorIndex {
 public:
  // Reads headers only. ERRORS: kNotFound, kMalformed (an index that lies: a file that is not
  // there, a tensor that is not in its file, or twice), kIo. A tensor in a shard that the index
  // does not list is left out.
  [[nodiscard]] static Result<TensorIndex> Open(const std::filesystem::path& model_dir);

  // Null when there is none of that name. Also tried with "model." put in front, or taken away.
  [[nodiscard]] const TensorInfo* Find(std::string_view name) const;
  [[nodiscard]] const std::map<std::string, TensorInfo, std::less<>>& tensors() const {
    return tensors_;
  }

 private:
  std::map<std::string, TensorInfo, std::less<>> tensors_;
};

// Reads byte ranges of one tensor. One thread.
class TensorReader {
 public:
  // ERRORS: kIo.
  [[nodiscard]] static Result<TensorReader> Open(const TensorInfo& info);
  TensorReader(TensorReader&&) noexcept;
  TensorReader& operator=(TensorReader&&) noexcept;
  ~TensorReader();
  // Bytes [offset, offset + target.size()) of the tensor. ERRORS: kIo, kMalformed (the file ends
  // early: truncated since Open), kInvalidArgument (outside the tensor).
  [[nodiscard]] Status Read(uint64_t offset, std::span<std::byte> target);

 private:
  TensorReader(TensorInfo info, int fd) : info_(std::move(info)), fd_(fd) {}
  TensorInfo info_;
  int fd_ = -1;  // owned
};

struct TensorToWrite {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;
};

// Writes one safetensors file sequentially: header first, then each tensor's bytes in the order
// given. For make-model and tests. One thread.
class SafetensorsWriter {
 public:
  [[nodiscard]] static Result<SafetensorsWriter> Create(const std::filesystem::path& file,
                                                        const std::vector<TensorToWrite>& tensors);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();
  [[nodiscard]] Status Append(std::span<const std::byte> bytes);
  // ERRORS: kInvalidArgument when more or fewer bytes than the header says were appended; kIo.
  [[nodiscard]] Status Finish();

 private:
  SafetensorsWriter(std::filesystem::path file, int fd, uint64_t bytes_wanted)
      : file_(std::move(file)), fd_(fd), bytes_wanted_(bytes_wanted) {}
  std::filesystem::path file_;
  int fd_ = -1;  // owned
  uint64_t bytes_wanted_ = 0;
  uint64_t bytes_written_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace engram
