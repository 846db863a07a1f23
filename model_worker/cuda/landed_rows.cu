// Rows as memory nodes store them -> checked rows: the CRC of engram/table/stored_row, by a warp a
// row.
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/launch.cuh"

namespace engram::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kRowsOfBlock = kThreads / kCrcLanes;
constexpr unsigned kWholeWarp = 0xffffffffu;

// CRC-32C of a byte, for each byte: the block's threads write one each.
__device__ void MakeCrcTable(uint32_t* table) {
  uint32_t state = threadIdx.x;
#pragma unroll
  for (int bit = 0; bit < 8; ++bit) {
    state = (state >> 1) ^ ((state & 1) != 0 ? kCrcPolynomial : 0);
  }
  table[threadIdx.x] = state;
  __syncthreads();
}

__global__ void KeepRowsKernel(const std::byte* stored, CrcParts parts, const LandingRow* rows,
                               uint32_t count, std::byte* table, uint8_t* right) {
  static_assert(kThreads == 256, "a thread for each byte");
  __shared__ uint32_t crc_table[256];
  MakeCrcTable(crc_table);
  const uint32_t index = blockIdx.x * kRowsOfBlock + threadIdx.x / kCrcLanes;
  if (index >= count) return;  // the whole warp
  const uint32_t lane = threadIdx.x % kCrcLanes;
  const LandingRow row = rows[index];
  const uint32_t row_bytes = parts.row_bytes;
  const auto* bytes =
      reinterpret_cast<const uint8_t*>(stored) + size_t{row.from} * (row_bytes + sizeof(uint32_t));

  uint32_t state = lane == 0 ? ~row.crc_of_place : 0;
  const uint32_t begin = lane * parts.part_bytes;
  const uint32_t end = min(begin + parts.part_bytes, row_bytes);
  for (uint32_t at = begin; at < end; ++at) {
    state = crc_table[(state ^ bytes[at]) & 0xff] ^ (state >> 8);
  }
  state = CrcMultiply(state, parts.factors[lane]);
  for (int lanes = kCrcLanes / 2; lanes > 0; lanes /= 2) {
    state ^= __shfl_xor_sync(kWholeWarp, state, lanes);
  }

  uint32_t wanted = 0;  // little-endian, at any address
  for (uint32_t i = 0; i < sizeof(wanted); ++i) wanted |= uint32_t{bytes[row_bytes + i]} << (8 * i);
  const bool is_right = ~state == wanted;
  if (lane == 0) right[index] = is_right ? 1 : 0;
  if (!is_right) return;
  auto* place = reinterpret_cast<uint8_t*>(table) + size_t{row.place} * row_bytes;
  for (uint32_t at = lane; at < row_bytes; at += kCrcLanes) place[at] = bytes[at];
}

}  // namespace

cudaError_t LaunchKeepRows(const std::byte* stored, const CrcParts& parts, const LandingRow* rows,
                           uint32_t count, std::byte* table, uint8_t* right, cudaStream_t stream) {
  return Launch(KeepRowsKernel, (count + kRowsOfBlock - 1) / kRowsOfBlock, kThreads, stream, stored,
                parts, rows, count, table, right);
}

}  // namespace engram::gpu
