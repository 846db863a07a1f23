// What share of the GPU's memory bandwidth do the kernels reach that are bound by it? Bytes are
// those that must move at least: each input read once, each output written once. And how many
// operations a second does prefill attention do, which is bound by those?
// usage: gpu_bandwidth [--all-splits | --prefill]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string_view>
#include <tuple>
#include <vector>

#include <cuda_runtime_api.h>

#include "client/row_source.h"
#include "engram/base/crc32c.h"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/kv_pages.h"
#include "model_worker/cuda/launch_shape.h"
#include "model_worker/cuda/step_inputs.h"

namespace engram::gpu {
namespace {

void Check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_bandwidth: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <typename T>
T* Allocated(size_t count) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, count * sizeof(T)));
  return static_cast<T*>(memory);
}

// Device memory with random bf16 or fp32 numbers in it, freed when the program ends.
template <typename T>
T* Numbers(size_t count) {
  constexpr size_t kPiece = size_t{1} << 24;
  T* out = Allocated<T>(count);
  auto* floats = Allocated<float>(kPiece);
  std::vector<float> host(kPiece);
  uint32_t state = 1;
  for (float& v : host) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int32_t>(state)) * 4.6e-10f;
  }
  Check(cudaMemcpy(floats, host.data(), kPiece * sizeof(float), cudaMemcpyHostToDevice));
  for (size_t at = 0; at < count; at += kPiece) {
    const size_t piece = std::min(kPiece, count - at);
    if constexpr (sizeof(T) == 2) {
      Check(LaunchToBf16(floats, piece, out + at, nullptr));
    } else {
      Check(cudaMemcpy(out + at, floats, piece * sizeof(T), cudaMemcpyDeviceToDevice));
    }
  }
  Check(cudaDeviceSynchronize());
  Check(cudaFree(floats));
  return out;
}

template <typename T>
T* Copied(const std::vector<T>& values) {
  T* out = Allocated<T>(values.size());
  Check(cudaMemcpy(out, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return out;
}

// Median seconds of one call: rounds of `calls` in a graph, so that launches cost little.
double Seconds(const std::function<cudaError_t(int call, cudaStream_t)>& run, int calls) {
  constexpr int kRounds = 21;
  cudaStream_t stream = nullptr;
  Check(cudaStreamCreate(&stream));
  for (int i = 0; i < calls; ++i) Check(run(i, stream));
  Check(cudaStreamSynchronize(stream));
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) Check(run(i, stream));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  Check(cudaStreamEndCapture(stream, &graph));
  Check(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin = nullptr, end = nullptr;
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int round = 0; round < kRounds; ++round) {
    Check(cudaEventRecord(begin, stream));
    Check(cudaGraphLaunch(exec, stream));
    Check(cudaEventRecord(end, stream));
    Check(cudaEventSynchronize(end));
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
  }
  std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
  return times[kRounds / 2] * 1e-3 / calls;
}

double ceiling = 0;  // bytes per second of a copy, read and written

void Report(const char* what, double bytes, double seconds) {
  std::printf("%-64s %9.2f us %8.0f GB/s %6.2f\n", what, seconds * 1e6, bytes / seconds * 1e-9,
              bytes / seconds / ceiling);
}

// A plain copy, not in a graph, which would give it to a copy engine.
void MeasureCopy() {
  const size_t bytes = size_t{4} << 30;
  char* from = Allocated<char>(bytes);
  char* to = Allocated<char>(bytes);
  Check(cudaMemset(from, 17, bytes));
  cudaEvent_t begin = nullptr, end = nullptr;
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  std::vector<float> times;
  for (int round = 0; round < 21; ++round) {
    Check(cudaEventRecord(begin, nullptr));
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nullptr));
    Check(cudaEventRecord(end, nullptr));
    Check(cudaEventSynchronize(end));
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
  }
  std::nth_element(times.begin(), times.begin() + 10, times.end());
  const double seconds = times[10] * 1e-3;
  ceiling = 2.0 * static_cast<double>(bytes) / seconds;
  Report("device to device copy, 4 GiB (the ceiling)", 2.0 * static_cast<double>(bytes), seconds);
  Check(cudaFree(from));
  Check(cudaFree(to));
}

void MeasureDecode(const HeadShape& shape, uint32_t sequences, uint32_t length, bool all_splits) {
  const uint32_t per_slot = PagesFor(length);
  const size_t page_values = size_t{shape.kv_heads} * kPageTokens * shape.head_dim;
  const size_t layer_values = size_t{sequences} * per_slot * page_values;
  const double bytes = 2.0 * sequences * length * shape.kv_heads * shape.head_dim * sizeof(Bf16);
  // Several layers in turn, together much larger than the cache.
  const int layers = std::clamp(static_cast<int>(1.0e9 / bytes) + 1, 2, 64);
  Bf16* keys = Numbers<Bf16>(layer_values * static_cast<size_t>(layers));
  Bf16* values = Numbers<Bf16>(layer_values * static_cast<size_t>(layers));
  std::vector<int32_t> table(size_t{sequences} * per_slot), rows(sequences), positions(sequences);
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = static_cast<int32_t>(i * 7919 % table.size());  // shuffled: 7919 is prime
  }
  std::iota(rows.begin(), rows.end(), 0);
  std::fill(positions.begin(), positions.end(), static_cast<int32_t>(length - 1));
  const int32_t* device_table = Copied(table);
  const int32_t* device_rows = Copied(rows);
  const int32_t* device_positions = Copied(positions);
  const Bf16* qkv = Numbers<Bf16>(size_t{sequences} * shape.qkv_width());
  Bf16* out = Numbers<Bf16>(size_t{sequences} * shape.heads * shape.head_dim);
  const DecodeSplits chosen = ChooseDecodeSplits(sequences, shape.kv_heads, length);
  std::vector<DecodeSplits> ways = {chosen};
  for (uint32_t count = 1; all_splits && length / count >= kSplitTokensMin; count *= 2) {
    ways.push_back({count, length / count});
  }
  uint32_t count_max = 1;
  for (const DecodeSplits& way : ways) count_max = std::max(count_max, way.count);
  float* partials =
      Numbers<float>(size_t{sequences} * count_max * shape.heads * (shape.head_dim + 2));
  for (const DecodeSplits& splits : ways) {
    const double seconds = Seconds(
        [&](int call, cudaStream_t stream) {
          const size_t layer = static_cast<size_t>(call % layers) * layer_values;
          return LaunchDecodeAttention(
              shape, {device_rows, device_positions}, device_rows, sequences, splits,
              {keys + layer, values + layer, device_table, per_slot}, qkv, partials, out, stream);
        },
        2 * layers);
    char what[128];
    std::snprintf(what, sizeof(what),
                  "decode attention, %u/%u heads of %u, %u x %u positions, %u parts", shape.heads,
                  shape.kv_heads, shape.head_dim, sequences, length, splits.count);
    Report(what, bytes, seconds);
  }
  for (const void* p :
       {static_cast<const void*>(keys), static_cast<const void*>(values),
        static_cast<const void*>(device_table), static_cast<const void*>(device_rows),
        static_cast<const void*>(device_positions), static_cast<const void*>(qkv),
        static_cast<const void*>(out), static_cast<const void*>(partials)}) {
    Check(cudaFree(const_cast<void*>(p)));
  }
}

// `sequences` prompts of `length` tokens from position 0. Operations: two products of the positions
// that a token sees, half of all on average.
void MeasurePrefill(const HeadShape& shape, uint32_t sequences, uint32_t length) {
  const uint32_t per_slot = PagesFor(length);
  const uint32_t tokens = sequences * length;
  const size_t page_values = size_t{shape.kv_heads} * kPageTokens * shape.head_dim;
  const Bf16* keys = Numbers<Bf16>(size_t{sequences} * per_slot * page_values);
  const Bf16* values = Numbers<Bf16>(size_t{sequences} * per_slot * page_values);
  std::vector<int32_t> table(size_t{sequences} * per_slot), slots, positions, rows, lengths;
  std::iota(table.begin(), table.end(), 0);
  for (uint32_t sequence = 0; sequence < sequences; ++sequence) {
    for (uint32_t at = 0; at < length; ++at) {
      slots.push_back(static_cast<int32_t>(sequence));
      positions.push_back(static_cast<int32_t>(at));
      if (at % kTileTokens != 0) continue;
      rows.push_back(static_cast<int32_t>(sequence * length + at));
      lengths.push_back(static_cast<int32_t>(std::min(kTileTokens, length - at)));
    }
  }
  const int32_t* device_table = Copied(table);
  const RowPlaces places{Copied(slots), Copied(positions)};
  const int32_t* device_rows = Copied(rows);
  const int32_t* device_lengths = Copied(lengths);
  const Bf16* qkv = Numbers<Bf16>(size_t{tokens} * shape.qkv_width());
  Bf16* out = Numbers<Bf16>(size_t{tokens} * shape.heads * shape.head_dim);
  const KvCache cache{const_cast<Bf16*>(keys), const_cast<Bf16*>(values),
                      const_cast<int32_t*>(device_table), per_slot};
  const double seconds = Seconds(
      [&](int, cudaStream_t stream) {
        return LaunchPrefillAttention(shape, places, device_rows, device_lengths,
                                      static_cast<uint32_t>(rows.size()), cache, qkv, out, stream);
      },
      20);
  const double operations =
      2.0 * sequences * length * (length + 1.0) * shape.heads * shape.head_dim;
  std::printf("prefill attention, %u/%u heads of %u, %4u x %5u tokens %15.2f us %8.0f TFLOP/s\n",
              shape.heads, shape.kv_heads, shape.head_dim, sequences, length, seconds * 1e6,
              operations / seconds * 1e-12);
  for (const void* p :
       {static_cast<const void*>(keys), static_cast<const void*>(values),
        static_cast<const void*>(device_table), static_cast<const void*>(places.slots),
        static_cast<const void*>(places.positions), static_cast<const void*>(device_rows),
        static_cast<const void*>(device_lengths), static_cast<const void*>(qkv),
        static_cast<const void*>(out)}) {
    Check(cudaFree(const_cast<void*>(p)));
  }
}

constexpr uint32_t kColumns = 24, kRowValues = 256, kRowBytes = 264;

// Rows at random places of a table on the GPU, many times what its caches hold.
void MeasureTable(uint32_t tokens) {
  constexpr uint32_t kTableRows = uint32_t{1} << 24;  // 4.1 GiB
  const int copies = std::clamp(static_cast<int>(65536 / tokens), 2, 64);
  const size_t places = size_t{tokens} * kColumns;
  const Bf16* table = Numbers<Bf16>(size_t{kTableRows} * kRowBytes / 2);
  std::vector<uint32_t> random(places * static_cast<size_t>(copies));
  uint32_t state = 1;
  for (uint32_t& id : random) {
    state = state * 1664525u + 1013904223u;
    id = state >> 8;
  }
  const uint32_t* ids = Copied(random);
  const size_t values = places * kRowValues;
  Bf16* decoded = Allocated<Bf16>(values * static_cast<size_t>(copies));
  auto* dead = Allocated<uint8_t>(tokens);
  const double seconds = Seconds(
      [&](int call, cudaStream_t stream) {
        const auto copy = static_cast<size_t>(call % copies);
        StagedRows rows{reinterpret_cast<const std::byte*>(table), nullptr, tokens, kColumns,
                        kRowValues};
        rows.ids = ids + copy * places;
        return LaunchDecodeRows(rows, tokens, decoded + copy * values, dead, stream);
      },
      2 * copies);
  char what[128];
  std::snprintf(what, sizeof(what), "Engram rows of a table, %u tokens of 24 x 264 bytes", tokens);
  Report(what, static_cast<double>(places) * (kRowBytes + kRowIdBytes + 2.0 * kRowValues), seconds);
  for (const void* p : {static_cast<const void*>(table), static_cast<const void*>(ids),
                        static_cast<const void*>(decoded), static_cast<const void*>(dead)}) {
    Check(cudaFree(const_cast<void*>(p)));
  }
}

// Rows as they land, all right ones, each to another place.
void MeasureKeep(uint32_t count) {
  constexpr uint32_t kStride = kRowBytes + kRowCrcBytes;
  const int copies = std::clamp(static_cast<int>(500'000 / count), 2, 64);
  std::mt19937 random(7);
  std::vector<std::byte> stored(size_t{count} * kStride);
  for (std::byte& byte : stored) byte = static_cast<std::byte>(random());
  std::vector<LandingRow> rows(count);
  for (uint32_t i = 0; i < count; ++i) {
    rows[i] = {static_cast<uint32_t>(random()), i, count - 1 - i};
    std::byte* const row = stored.data() + size_t{i} * kStride;
    const uint32_t crc = Crc32c(rows[i].crc_of_place, row, kRowBytes);
    std::memcpy(row + kRowBytes, &crc, sizeof(crc));
  }
  std::vector<std::byte> all;
  for (int i = 0; i < copies; ++i) all.insert(all.end(), stored.begin(), stored.end());
  const std::byte* from = Copied(all);
  const LandingRow* list = Copied(rows);
  auto* table = Allocated<std::byte>(size_t{count} * kRowBytes * static_cast<size_t>(copies));
  auto* right = Allocated<uint8_t>(count);
  const CrcParts parts = CutForCrc(kRowBytes);
  const double seconds = Seconds(
      [&](int call, cudaStream_t stream) {
        const auto copy = static_cast<size_t>(call % copies);
        return LaunchKeepRows(from + copy * stored.size(), parts, list, count,
                              table + copy * count * kRowBytes, right, stream);
      },
      2 * copies);
  char what[128];
  std::snprintf(what, sizeof(what), "Engram rows that landed, %u of 264 bytes checked", count);
  Report(what, static_cast<double>(count) * (kStride + kRowBytes), seconds);
  for (const void* p : {static_cast<const void*>(from), static_cast<const void*>(list),
                        static_cast<const void*>(table), static_cast<const void*>(right)}) {
    Check(cudaFree(const_cast<void*>(p)));
  }
}

void MeasureEngram(uint32_t tokens, uint32_t width) {
  const int copies = std::clamp(static_cast<int>(65536 / tokens), 2, 64);
  const size_t staged_bytes = size_t{tokens} * kColumns * kRowBytes;
  const size_t values = size_t{tokens} * kColumns * kRowValues;
  // Bytes of bf16 numbers: all are E4M3 codes, and scales near 1.
  const Bf16* staged = Numbers<Bf16>(staged_bytes / 2 * static_cast<size_t>(copies));
  Bf16* decoded = Numbers<Bf16>(values * static_cast<size_t>(copies));
  auto* dead = reinterpret_cast<uint8_t*>(Numbers<Bf16>(tokens));
  char what[128];
  double seconds = Seconds(
      [&](int call, cudaStream_t stream) {
        const auto copy = static_cast<size_t>(call % copies);
        const StagedRows rows{reinterpret_cast<const std::byte*>(staged) + copy * staged_bytes,
                              nullptr, tokens, kColumns, kRowValues};
        return LaunchDecodeRows(rows, tokens, decoded + copy * values, dead, stream);
      },
      2 * copies);
  std::snprintf(what, sizeof(what), "Engram rows, %u tokens of 24 x 264 bytes to bf16", tokens);
  Report(what, static_cast<double>(staged_bytes) + 2.0 * static_cast<double>(values), seconds);
  const Bf16* keys_value = Numbers<Bf16>(size_t{tokens} * 2 * width * static_cast<size_t>(copies));
  float* hidden = Numbers<float>(size_t{tokens} * width * static_cast<size_t>(copies));
  const float* product = Numbers<float>(width);
  seconds = Seconds(
      [&](int call, cudaStream_t stream) {
        const size_t copy = static_cast<size_t>(call % copies) * tokens * width;
        return LaunchFuseV41(keys_value + 2 * copy, product, dead, 1e-6f, tokens, width,
                             hidden + copy, stream);
      },
      2 * copies);
  std::snprintf(what, sizeof(what), "Engram fusion, %u tokens of %u", tokens, width);
  // The residual stream in fp32 there and back, key and value in bf16.
  Report(what, 12.0 * tokens * width, seconds);
  for (const void* p : {static_cast<const void*>(staged), static_cast<const void*>(decoded),
                        static_cast<const void*>(dead), static_cast<const void*>(keys_value),
                        static_cast<const void*>(hidden), static_cast<const void*>(product)}) {
    Check(cudaFree(const_cast<void*>(p)));
  }
}

// Tokens out of rows of Qwen3's vocabulary. Bytes: the logits once.
void MeasureSampling(uint32_t rows) {
  constexpr uint32_t kVocabulary = 151'936;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(size_t{rows} * kVocabulary);
  for (float& logit : logits) logit = normal(random);
  const float* device_logits = Copied(logits);
  int32_t* tokens = Copied(std::vector<int32_t>(rows));
  for (const auto& [name, temperature, top_k, top_p] : {std::tuple{"greedy", 0.0f, 0u, 1.0f},
                                                        {"temperature 1", 1.0f, 0u, 1.0f},
                                                        {"top-k 40", 1.0f, 40u, 1.0f},
                                                        {"top-p 0.95", 1.0f, 0u, 0.95f}}) {
    std::vector<DeviceDraw> draws;
    for (uint64_t row = 0; row < rows; ++row) {
      draws.push_back(DrawOnDevice({{temperature, top_k, top_p, row}, 0}));
    }
    const DeviceDraw* device_draws = Copied(draws);
    const double seconds = Seconds(
        [&](int, cudaStream_t stream) {
          return LaunchSample(device_logits, kVocabulary, kVocabulary, device_draws, rows, tokens,
                              stream);
        },
        20);
    char what[128];
    std::snprintf(what, sizeof(what), "sampling, %u x %u logits, %s", rows, kVocabulary, name);
    Report(what, 4.0 * rows * kVocabulary, seconds);
    Check(cudaFree(const_cast<DeviceDraw*>(device_draws)));
  }
  Check(cudaFree(const_cast<float*>(device_logits)));
  Check(cudaFree(tokens));
}

// The exit status.
int Main(bool all_splits, bool prefill_only) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::printf("gpu_bandwidth: no GPU can be used here: %s\n", cudaGetErrorString(error));
    return 1;
  }
  cudaDeviceProp properties{};
  Check(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, medians of 21\n%-64s %12s %13s %6s\n", properties.name, "what", "time", "rate",
              "share");
  MeasureCopy();
  for (const auto& [sequences, length] : std::vector<std::pair<uint32_t, uint32_t>>{
           {1, 512}, {4, 512}, {16, 512}, {1, 2048}, {1, 8192}}) {
    MeasurePrefill({32, 8, 128}, sequences, length);
  }
  if (prefill_only) return 0;
  // Qwen3 4 B and 8 B: 32 query heads, 8 KV heads of 128.
  for (const auto& [sequences, length] : std::vector<std::pair<uint32_t, uint32_t>>{{1, 4096},
                                                                                    {1, 32768},
                                                                                    {4, 8192},
                                                                                    {32, 1024},
                                                                                    {32, 4096},
                                                                                    {128, 1024},
                                                                                    {256, 512},
                                                                                    {256, 2048}}) {
    MeasureDecode({32, 8, 128}, sequences, length, all_splits);
  }
  MeasureDecode({64, 8, 128}, 64, 2048, all_splits);
  MeasureDecode({16, 8, 128}, 64, 2048, all_splits);
  for (const uint32_t tokens : {32u, 256u, 2048u, 8192u}) MeasureEngram(tokens, 5120);
  for (const uint32_t tokens : {32u, 256u, 2048u, 8192u}) MeasureTable(tokens);
  for (const uint32_t rows : {128u, 1024u, 12'288u}) MeasureKeep(rows);
  for (const uint32_t rows : {1u, 32u, 128u}) MeasureSampling(rows);
  return 0;
}

}  // namespace
}  // namespace engram::gpu

int main(int argc, char** argv) {
  const std::string_view way = argc > 1 ? argv[1] : "";
  return engram::gpu::Main(way == "--all-splits", way == "--prefill");
}
