#include "tools/model_writer.h"

#include <array>
#include <chrono>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "engram/table/row_codec.h"
#include "tools/seeded_values.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// Values of one tensor made at a time: a multiple of every group size of seeded_values.h.
constexpr uint64_t kBlockValues = uint64_t{5} * 8 * 4096;
static_assert(kBlockValues % kNormalsPerWord == 0 && kBlockValues % kE4M3PerWord == 0 &&
              kBlockValues % kScalesPerWord == 0);
// Kept free beside the model: index, config, tokenizer, and the file system's own needs.
constexpr uint64_t kSpareBytes = 64u << 20;

Status IoError(const std::string& what, const std::error_code& error) {
  return Status(StatusCode::kIo, what + ": " + error.message());
}

// Makes the values of one tensor block by block.
class BlockMaker {
 public:
  BlockMaker() : floats_(kBlockValues), bytes_(kBlockValues * sizeof(float)) {}

  std::span<const std::byte> Make(const PlannedTensor& planned, uint64_t seed, uint64_t first,
                                  size_t count) {
    const auto bytes = std::span(bytes_).first(count * DtypeBytes(planned.tensor.dtype));
    switch (planned.fill) {
      case Fill::kE4M3:
        FillE4M3(seed, first, bytes);
        return bytes;
      case Fill::kScales:
        FillScales(seed, first, bytes);
        return bytes;
      case Fill::kNormal:
      case Fill::kAroundOne:
        break;
    }
    const auto floats = std::span(floats_).first(count);
    FillNormal(seed, first, planned.fill == Fill::kAroundOne ? 1.0f : 0.0f, planned.deviation,
               floats);
    if (planned.tensor.dtype == Dtype::kF32) return std::as_bytes(floats);
    auto* out = reinterpret_cast<uint16_t*>(bytes_.data());
    const bool bf16 = planned.tensor.dtype == Dtype::kBf16;
    for (size_t i = 0; i < count; ++i) {
      out[i] = bf16 ? FloatToBf16(floats[i]) : FloatToF16(floats[i]);
    }
    return bytes;
  }

 private:
  std::vector<float> floats_;
  std::vector<std::byte> bytes_;
};

// What has been written so far, for the progress line.
struct Written {
  uint64_t total_bytes = 0;
  uint64_t bytes = 0;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();

  [[nodiscard]] std::string Text(const std::string& file) const {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    const double rate = static_cast<double>(bytes) / 1e6 / std::max(elapsed.count(), 1e-3);
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.0f MB/s", rate);
    return "make-model: " + BytesText(bytes) + " of " + BytesText(total_bytes) + ", " +
           text.data() + " (" + file + ")";
  }
};

Status WriteFile(const PlannedFile& planned, const fs::path& dir, uint64_t seed, Written& written,
                 ProgressLine& progress) {
  std::vector<TensorToWrite> tensors;
  for (const PlannedTensor& tensor : planned.tensors) tensors.push_back(tensor.tensor);
  auto writer = SafetensorsWriter::Create(dir / planned.name, tensors);
  if (!writer.has_value()) return writer.error();
  BlockMaker blocks;
  for (const PlannedTensor& tensor : planned.tensors) {
    const uint64_t tensor_seed = TensorSeed(seed, tensor.tensor.name);
    const uint64_t count = TensorBytes(tensor.tensor) / DtypeBytes(tensor.tensor.dtype);
    for (uint64_t first = 0; first < count; first += kBlockValues) {
      const auto block =
          blocks.Make(tensor, tensor_seed, first, std::min(kBlockValues, count - first));
      ENGRAM_RETURN_IF_ERROR(writer->Append(block));
      written.bytes += block.size();
      progress.Show(written.Text(planned.name));
    }
  }
  return writer->Finish();
}

Status WriteText(const fs::path& file, const std::string& text) {
  std::ofstream out(file, std::ios::binary);
  out << text;
  out.close();
  if (out) return Status();
  return Status(StatusCode::kIo, "cannot write " + file.string() + ": is the disk full?");
}

Status CheckRoom(const fs::path& parent, uint64_t needed) {
  std::error_code error;
  const fs::space_info room = fs::space(parent, error);
  if (error) return IoError("cannot look at " + parent.string(), error);
  if (room.available >= needed + kSpareBytes) return Status();
  return Status(StatusCode::kResourceExhausted,
                "the model needs " + BytesText(needed + kSpareBytes) + ", " + parent.string() +
                    " has " + BytesText(room.available) +
                    " free: free some space, choose another folder, or fewer --base-rows");
}

// Only a model folder or an empty one may be replaced.
Status CheckOut(const fs::path& out, bool force) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(out, error))) return Status();
  if (!force) {
    return Status(StatusCode::kAlreadyExists,
                  out.string() + " exists: choose another --out, or --force to replace it");
  }
  if (fs::exists(out / "config.json", error) ||
      (fs::is_directory(out, error) && fs::is_empty(out, error))) {
    return Status();
  }
  return Status(StatusCode::kAlreadyExists,
                out.string() + " has no config.json, so it is no model folder: not replaced");
}

Status WriteAll(const ModelPlan& plan, const WriteModelOptions& options, const fs::path& dir,
                ProgressLine& progress) {
  std::error_code error;
  fs::create_directory(dir, error);
  if (error) return IoError("cannot create " + dir.string(), error);
  Written written;
  written.total_bytes = plan.total_bytes;
  ordered_json index;
  index["metadata"] = {{"total_size", plan.total_bytes}};
  index["weight_map"] = ordered_json::object();
  for (const PlannedFile& file : plan.files) {
    ENGRAM_RETURN_IF_ERROR(WriteFile(file, dir, options.seed, written, progress));
    for (const PlannedTensor& tensor : file.tensors) {
      index["weight_map"][tensor.tensor.name] = file.name;
    }
    progress.Show(written.Text(file.name), true);
  }
  ENGRAM_RETURN_IF_ERROR(WriteText(dir / "model.safetensors.index.json", index.dump(2) + "\n"));
  ENGRAM_RETURN_IF_ERROR(WriteText(dir / "config.json", plan.config.dump(2) + "\n"));
  fs::copy_file(options.tokenizer_json, dir / "tokenizer.json", error);
  if (error) return IoError("cannot copy " + options.tokenizer_json.string(), error);
  return Status();
}

}  // namespace

Status WriteModel(const ModelPlan& plan, const WriteModelOptions& options, ProgressLine& progress) {
  std::error_code error;
  fs::path out = fs::absolute(options.out, error).lexically_normal();
  if (!out.has_filename()) out = out.parent_path();  // "dir/" is "dir"
  ENGRAM_RETURN_IF_ERROR(CheckOut(out, options.force));
  fs::create_directories(out.parent_path(), error);
  if (error) return IoError("cannot create " + out.parent_path().string(), error);
  const fs::path partial = out.string() + ".partial";
  fs::remove_all(partial, error);
  if (error) return IoError("cannot remove " + partial.string(), error);
  ENGRAM_RETURN_IF_ERROR(CheckRoom(out.parent_path(), plan.total_bytes));

  if (Status status = WriteAll(plan, options, partial, progress); !status.ok()) {
    fs::remove_all(partial, error);
    return status;
  }
  // Two renames, so that a failure between them leaves the old model under a name of its own.
  const fs::path replaced = out.string() + ".replaced";
  if (fs::exists(out, error)) {
    fs::remove_all(replaced, error);
    fs::rename(out, replaced, error);
    if (error) return IoError("cannot move " + out.string() + " out of the way", error);
  }
  fs::rename(partial, out, error);
  if (error) return IoError("cannot rename " + partial.string() + " to " + out.string(), error);
  fs::remove_all(replaced, error);
  return Status();
}

}  // namespace engram
