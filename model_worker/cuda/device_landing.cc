#include "model_worker/cuda/device_landing.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "engram/base/check.h"
#include "engram/table/table_layout.h"
#include "model_worker/cuda/device_memory.h"
#include "model_worker/cuda/kernels.h"

namespace engram::gpu {
namespace {

// Rows that one launch checks.
constexpr uint32_t kKeepRowsMax = 1024;

class DeviceLandedRows final : public LandedRows {
 public:
  DeviceLandedRows(const RowLanding::Shape& shape, int32_t device)
      : shape_(shape), device_(device), crc_parts_(CutForCrc(shape.row_bytes)) {}
  ~DeviceLandedRows() override { (void)cudaSetDevice(device_); }
  DeviceLandedRows(const DeviceLandedRows&) = delete;
  DeviceLandedRows& operator=(const DeviceLandedRows&) = delete;
  // On the device that is current.
  [[nodiscard]] Status Allocate();

  [[nodiscard]] LandedTable table() const override { return {table_.data(), shape_.places}; }
  [[nodiscard]] Status Keep(uint32_t part, const std::byte* stored, bool landed,
                            std::span<const Row> rows, uint8_t* right) override;

 private:
  // What one thread at a time uses.
  struct Part {
    Stream stream;
    PinnedArray<LandingRow> rows;   // [kKeepRowsMax]
    PinnedArray<uint8_t> right;     // the same
    PinnedArray<std::byte> bounce;  // [kKeepRowsMax][stride]: rows of the host
  };
  [[nodiscard]] Status KeepPiece(Part& part, const std::byte* stored, bool landed,
                                 std::span<const Row> rows, uint8_t* right);
  [[nodiscard]] Status Check(Part& part, const std::byte* from, uint32_t count);

  const RowLanding::Shape shape_;
  const int32_t device_;
  const CrcParts crc_parts_;
  bool flushes_ = false;  // what cards wrote must be asked for before kernels see it
  DeviceArray<std::byte> table_;
  std::vector<Part> parts_;
};

Status DeviceLandedRows::Allocate() {
  auto table = DeviceArray<std::byte>::Create(size_t{shape_.places} * shape_.row_bytes,
                                              "landed Engram rows");
  if (!table.has_value()) return std::move(table).error();
  table_ = *std::move(table);
  int ordering = 0;
  ENGRAM_CUDA_TRY(
      cudaDeviceGetAttribute(&ordering, cudaDevAttrGPUDirectRDMAWritesOrdering, device_),
      "asking how the GPU orders what network cards write");
  flushes_ = ordering < cudaGPUDirectRDMAWritesOrderingOwner;
  for (uint32_t i = 0; i < shape_.part_count; ++i) {
    Part& part = parts_.emplace_back();
    auto stream = MakeUrgentStream();
    if (!stream.has_value()) return std::move(stream).error();
    part.stream = *std::move(stream);
    auto rows = PinnedArray<LandingRow>::Create(kKeepRowsMax, "landed Engram rows");
    if (!rows.has_value()) return std::move(rows).error();
    part.rows = *std::move(rows);
    auto right = PinnedArray<uint8_t>::Create(kKeepRowsMax, "landed Engram rows");
    if (!right.has_value()) return std::move(right).error();
    part.right = *std::move(right);
    auto bounce = PinnedArray<std::byte>::Create(
        size_t{kKeepRowsMax} * (shape_.row_bytes + kRowCrcBytes), "landed Engram rows");
    if (!bounce.has_value()) return std::move(bounce).error();
    part.bounce = *std::move(bounce);
  }
  return {};
}

Status DeviceLandedRows::Keep(uint32_t part, const std::byte* stored, bool landed,
                              std::span<const Row> rows, uint8_t* right) {
  ENGRAM_CHECK(part < parts_.size());
  ENGRAM_CUDA_TRY(cudaSetDevice(device_), "choosing the GPU");
  while (!rows.empty()) {
    const auto piece = rows.first(std::min<size_t>(rows.size(), kKeepRowsMax));
    ENGRAM_RETURN_IF_ERROR(KeepPiece(parts_[part], stored, landed, piece, right));
    rows = rows.subspan(piece.size());
    right += piece.size();
  }
  return {};
}

Status DeviceLandedRows::KeepPiece(Part& part, const std::byte* stored, bool landed,
                                   std::span<const Row> rows, uint8_t* right) {
  const size_t stride = shape_.row_bytes + kRowCrcBytes;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    ENGRAM_CHECK(row.place < shape_.places);
    part.rows.data()[i] = {row.crc_of_place, row.from, row.place};
    if (landed) continue;
    std::memcpy(part.bounce.data() + i * stride, stored + row.from * stride, stride);
    part.rows.data()[i].from = static_cast<uint32_t>(i);
  }
  const std::byte* const from = landed ? stored : part.bounce.data();
  const auto count = static_cast<uint32_t>(rows.size());
  const auto flush = [&]() -> Status {
    if (!landed || !flushes_) return {};
    return CudaStatus(
        cudaDeviceFlushGPUDirectRDMAWrites(cudaFlushGPUDirectRDMAWritesTargetCurrentDevice,
                                           cudaFlushGPUDirectRDMAWritesToOwner),
        "waiting for what network cards wrote");
  };
  ENGRAM_RETURN_IF_ERROR(flush());
  ENGRAM_RETURN_IF_ERROR(Check(part, from, count));
  const uint8_t* const verdicts = part.right.data();
  if (landed && std::find(verdicts, verdicts + count, 0) != verdicts + count) {
    // The card says that it is done over another way than its writes go: before a node is suspected
    // they are looked at once more.
    ENGRAM_RETURN_IF_ERROR(flush());
    ENGRAM_RETURN_IF_ERROR(Check(part, from, count));
  }
  std::copy_n(verdicts, count, right);
  return {};
}

Status DeviceLandedRows::Check(Part& part, const std::byte* from, uint32_t count) {
  ENGRAM_CUDA_TRY(LaunchKeepRows(from, crc_parts_, part.rows.data(), count, table_.data(),
                                 part.right.data(), part.stream.get()),
                  "checking landed rows");
  ENGRAM_CUDA_TRY(cudaStreamSynchronize(part.stream.get()), "checking landed rows");
  return {};
}

}  // namespace

DeviceLanding::~DeviceLanding() {
  (void)cudaSetDevice(device_);
  for (const auto& [memory, bytes] : blocks_) (void)cudaFree(memory);
}

Result<LandingMemory::Block> DeviceLanding::Allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (const auto kept = free_blocks_.find(bytes); kept != free_blocks_.end()) {
    Block block(kept->second, {this});
    free_blocks_.erase(kept);
    return block;
  }
  ENGRAM_TRY(CudaStatus(cudaSetDevice(device_), "choosing the GPU"));
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return Error(CudaStatus(error, "allocating memory that rows land in")
                     .WithContext(std::to_string(bytes) + " bytes are needed on the GPU"));
  }
  blocks_[static_cast<std::byte*>(memory)] = bytes;
  return Block(static_cast<std::byte*>(memory), {this});
}

void DeviceLanding::Release(std::byte* memory) {
  const std::lock_guard lock(mutex_);
  free_blocks_.emplace(blocks_.at(memory), memory);
}

Status DeviceLanding::CopyToHost(const std::byte* from, std::span<std::byte> to) {
  ENGRAM_CUDA_TRY(cudaSetDevice(device_), "choosing the GPU");
  ENGRAM_CUDA_TRY(cudaMemcpy(to.data(), from, to.size(), cudaMemcpyDeviceToHost),
                  "copying landed rows");
  return {};
}

Result<std::unique_ptr<LandedRows>> DeviceLanding::MakeRows(const Shape& shape) {
  ENGRAM_TRY(CudaStatus(cudaSetDevice(device_), "choosing the GPU"));
  auto rows = std::make_unique<DeviceLandedRows>(shape, device_);
  ENGRAM_TRY(rows->Allocate());
  return rows;
}

}  // namespace engram::gpu
