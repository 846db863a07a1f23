// The JSON header of one safetensors file, parsed in one pass without a document tree.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/checkpoint/safetensors.h"
#include "engram/checkpoint/strict_json.h"

namespace engram {
namespace {

constexpr size_t kTensorDimensionsMax = 16;

struct KnownDtype {
  std::string_view name;
  Dtype dtype;
  uint32_t bytes;
};
constexpr std::array kKnownDtypes = {
    KnownDtype{"F8_E4M3", Dtype::kF8E4M3, 1}, KnownDtype{"F8_E8M0", Dtype::kF8E8M0, 1},
    KnownDtype{"BF16", Dtype::kBf16, 2},      KnownDtype{"F16", Dtype::kF16, 2},
    KnownDtype{"F32", Dtype::kF32, 4},        KnownDtype{"F64", Dtype::kOther, 8},
    KnownDtype{"I64", Dtype::kOther, 8},      KnownDtype{"U64", Dtype::kOther, 8},
    KnownDtype{"I32", Dtype::kOther, 4},      KnownDtype{"U32", Dtype::kOther, 4},
    KnownDtype{"I16", Dtype::kOther, 2},      KnownDtype{"U16", Dtype::kOther, 2},
    KnownDtype{"I8", Dtype::kOther, 1},       KnownDtype{"U8", Dtype::kOther, 1},
    KnownDtype{"BOOL", Dtype::kOther, 1},     KnownDtype{"F8_E5M2", Dtype::kOther, 1},
};

// One tensor as the header spells it.
struct HeaderEntry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;
};

// Receives the parse events. A fault ends the parse; `fault()` says what it was.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return Unexpected("the negative number " + std::to_string(value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected("the number " + Quoted(text));
  }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kShape && state_ != State::kOffsets) return Unexpected("a number");
    auto& list = state_ == State::kShape ? *entry().shape : *entry().offsets;
    const size_t count_max = state_ == State::kShape ? kTensorDimensionsMax : 2;
    if (list.size() == count_max) {
      return Fail(Tensor() + ": " + key_ + " has more than " + std::to_string(count_max) +
                  " numbers");
    }
    list.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadata) return true;
    if (state_ != State::kTensor || key_ != "dtype") return Unexpected("the text " + Quoted(value));
    entry().dtype = std::move(value);
    return true;
  }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kTop:
        if (key_ == "__metadata__") {
          state_ = State::kMetadata;
          inner_keys_.clear();
        } else {
          state_ = State::kTensor;
        }
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& value) override {
    key_ = value;
    if (state_ == State::kTop) {
      if (!names_.insert(value).second) return Fail("tensor " + Quoted(value) + " stands twice");
      if (value != "__metadata__") entries_.emplace_back().name = value;
      return true;
    }
    if (state_ == State::kMetadata) {
      if (inner_keys_.insert(value).second) return true;
      return Fail("__metadata__ has the key " + Quoted(value) + " twice");
    }
    const bool known = value == "dtype" || value == "shape" || value == "data_offsets";
    if (!known) return Fail(Tensor() + " has the unknown key " + Quoted(value));
    const HeaderEntry& e = entry();
    if ((value == "dtype" && e.dtype) || (value == "shape" && e.shape) ||
        (value == "data_offsets" && e.offsets)) {
      return Fail(Tensor() + " has " + value + " twice");
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor || state_ == State::kMetadata) {
      state_ = State::kTop;
    } else {
      state_ = State::kEnd;
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::kTensor && key_ == "shape") {
      entry().shape.emplace();
      state_ = State::kShape;
      return true;
    }
    if (state_ == State::kTensor && key_ == "data_offsets") {
      entry().offsets.emplace();
      state_ = State::kOffsets;
      return true;
    }
    return Unexpected("a list");
  }
  bool end_array() override {
    state_ = State::kTensor;
    return true;
  }

  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::json::exception& error) override {
    return Fail("the header is not JSON: " + std::string(error.what()).substr(0, 300));
  }

  [[nodiscard]] const std::string& fault() const { return fault_; }
  [[nodiscard]] std::vector<HeaderEntry>& entries() { return entries_; }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  HeaderEntry& entry() { return entries_.back(); }
  std::string Tensor() { return "tensor " + Quoted(entries_.back().name); }
  bool Fail(std::string what) {
    if (fault_.empty()) fault_ = std::move(what);
    return false;
  }
  bool Unexpected(const std::string& found) {
    switch (state_) {
      case State::kStart:
      case State::kEnd:
        return Fail("the header is " + found + ", expected an object");
      case State::kTop:
        return Fail("the value of " + Quoted(key_) + " is " + found + ", expected an object");
      case State::kMetadata:
        return Fail("__metadata__ value of " + Quoted(key_) + " is " + found + ", expected a text");
      default:
        return Fail(Tensor() + ": " + key_ + " holds " + found + ", expected " +
                    (key_ == "dtype" ? "a text" : "a list of whole numbers"));
    }
  }

  State state_ = State::kStart;
  std::string key_;
  std::string fault_;
  std::vector<HeaderEntry> entries_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> inner_keys_;
};

std::string ShapeText(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (const uint64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + "]";
}

// Checks one entry by itself and gives its TensorInfo.
Result<TensorInfo> CheckEntry(HeaderEntry& entry, uint64_t data_start, uint64_t data_bytes,
                              const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) {
    return Error(StatusCode::kMalformed,
                 file.string() + ": tensor " + Quoted(entry.name) + " " + what);
  };
  if (entry.name.empty()) return fail("has an empty name");
  if (!entry.dtype) return fail("has no dtype");
  if (!entry.shape) return fail("has no shape");
  if (!entry.offsets || entry.offsets->size() != 2) {
    return fail("has no data_offsets of two numbers");
  }
  const uint64_t begin = (*entry.offsets)[0];
  const uint64_t end = (*entry.offsets)[1];
  if (begin > end) {
    return fail("begins at byte " + std::to_string(begin) + ", after its end " +
                std::to_string(end));
  }
  if (end > data_bytes) {
    return fail("ends at byte " + std::to_string(end) + " of the data, but the file has " +
                std::to_string(data_bytes) + " bytes of data: is it truncated?");
  }

  TensorInfo info;
  uint64_t elements = 1;
  bool overflow = false;
  for (const uint64_t size : *entry.shape) {
    overflow |= size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    overflow |= __builtin_mul_overflow(elements, size, &elements);
    info.shape.push_back(static_cast<int64_t>(size));
  }
  const auto known = std::find_if(kKnownDtypes.begin(), kKnownDtypes.end(),
                                  [&](const KnownDtype& k) { return k.name == *entry.dtype; });
  if (known != kKnownDtypes.end()) {
    info.dtype = known->dtype;
    uint64_t bytes = 0;
    overflow |= __builtin_mul_overflow(elements, uint64_t{known->bytes}, &bytes);
    if (!overflow && bytes != end - begin) {
      return fail("of dtype " + *entry.dtype + " and shape " + ShapeText(*entry.shape) +
                  " expected " + std::to_string(bytes) + " bytes, found data_offsets of " +
                  std::to_string(end - begin));
    }
  }
  if (overflow) return fail("has the shape " + ShapeText(*entry.shape) + ", more than any file");
  info.name = std::move(entry.name);
  info.file = file;
  info.file_offset = data_start + begin;
  info.byte_count = end - begin;
  return info;
}

// The tensors' bytes must follow each other from the first to the last byte of data.
Status CheckCoverage(const std::vector<TensorInfo>& tensors, uint64_t data_start,
                     uint64_t file_bytes, const std::filesystem::path& file) {
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const TensorInfo& info : tensors) order.push_back(&info);
  std::sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::pair(a->file_offset, a->byte_count) < std::pair(b->file_offset, b->byte_count);
  });
  uint64_t next = data_start;
  for (const TensorInfo* info : order) {
    if (info->file_offset != next) {
      const bool overlap = info->file_offset < next;
      return Status(StatusCode::kMalformed,
                    file.string() + ": tensor " + Quoted(info->name) +
                        (overlap ? " overlaps the one before it" : " leaves a hole before it") +
                        ": expected data_offsets from " + std::to_string(next - data_start) +
                        ", found " + std::to_string(info->file_offset - data_start));
    }
    next += info->byte_count;
  }
  if (next != file_bytes) {
    return Status(StatusCode::kMalformed, file.string() + ": expected " + std::to_string(next) +
                                              " bytes by its header, found " +
                                              std::to_string(file_bytes));
  }
  return Status();
}

}  // namespace

std::string_view DtypeName(Dtype dtype) {
  for (const KnownDtype& known : kKnownDtypes) {
    if (known.dtype == dtype && dtype != Dtype::kOther) return known.name;
  }
  return "another dtype";
}

uint32_t DtypeBytes(Dtype dtype) {
  for (const KnownDtype& known : kKnownDtypes) {
    if (known.dtype == dtype && dtype != Dtype::kOther) return known.bytes;
  }
  return 0;
}

Result<std::vector<TensorInfo>> ParseSafetensorsHeader(std::string_view header_json,
                                                       uint64_t data_start, uint64_t file_bytes,
                                                       const std::filesystem::path& file) {
  if (data_start > file_bytes) {
    return Error(StatusCode::kMalformed, file.string() + ": its header ends at byte " +
                                             std::to_string(data_start) + ", but it has only " +
                                             std::to_string(file_bytes) + " bytes: truncated");
  }
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(header_json, &handler)) {
    return Error(StatusCode::kMalformed, file.string() + ": " + handler.fault());
  }
  std::vector<TensorInfo> tensors;
  tensors.reserve(handler.entries().size());
  for (HeaderEntry& entry : handler.entries()) {
    ENGRAM_ASSIGN_OR_RETURN(auto info,
                            CheckEntry(entry, data_start, file_bytes - data_start, file));
    tensors.push_back(std::move(info));
  }
  ENGRAM_TRY(CheckCoverage(tensors, data_start, file_bytes, file));
  return tensors;
}

}  // namespace engram
