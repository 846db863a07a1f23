// What every GPU test needs: a GPU or a skip, arrays there and back, random numbers, an error norm.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "engram/table/row_codec.h"
#include "model_worker/cuda/device_memory.h"

namespace engram::gpu {

using Bf16 = __nv_bfloat16;

// Skips where there is no GPU; fails there if ENGRAM_GPU_REQUIRED is set (tests/gpu/run sets it
// where nvidia-smi finds one).
class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
      (void)cudaGetLastError();
      if (std::getenv("ENGRAM_GPU_REQUIRED") != nullptr) {
        FAIL() << "there is a GPU, and CUDA cannot use it: " << cudaGetErrorString(error);
      }
      GTEST_SKIP() << "no GPU can be used here: " << cudaGetErrorString(error);
    }
  }
  // A kernel that went wrong must fail its own test, not the next one.
  void TearDown() override {
    if (IsSkipped()) return;
    const cudaError_t error = cudaDeviceSynchronize();
    EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
  }
};

inline void ExpectCuda(cudaError_t error) {
  ASSERT_EQ(error, cudaSuccess) << cudaGetErrorName(error) << ": " << cudaGetErrorString(error);
}

template <typename T>
DeviceArray<T> Upload(const std::vector<T>& values) {
  auto array = DeviceArray<T>::Create(values.size(), "a test");
  EXPECT_TRUE(array.has_value());
  EXPECT_EQ(cudaMemcpy(array->data(), values.data(), array->bytes(), cudaMemcpyHostToDevice),
            cudaSuccess);
  return *std::move(array);
}

// `count` values that a kernel must overwrite: all bits set, NaN in every float format.
template <typename T>
DeviceArray<T> Poisoned(size_t count) {
  auto array = DeviceArray<T>::Create(count, "a test");
  EXPECT_TRUE(array.has_value());
  EXPECT_EQ(cudaMemset(array->data(), 0xff, array->bytes()), cudaSuccess);
  // The default stream may be late, and others do not wait for it.
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return *std::move(array);
}

template <typename T>
std::vector<T> Download(const DeviceArray<T>& array) {
  std::vector<T> values(array.size());
  EXPECT_EQ(cudaMemcpy(values.data(), array.data(), array.bytes(), cudaMemcpyDeviceToHost),
            cudaSuccess);
  return values;
}

inline float ToFloat(float x) { return x; }
inline float ToFloat(Bf16 x) { return __bfloat162float(x); }

inline float Rounded(float x) { return Bf16ToFloat(FloatToBf16(x)); }

inline std::vector<float> RandomFloats(size_t count, float center, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> values(center, spread);
  std::vector<float> out(count);
  for (float& v : out) v = values(random);
  return out;
}

inline std::vector<Bf16> ToBf16(const std::vector<float>& values) {
  std::vector<Bf16> out;
  out.reserve(values.size());
  for (const float v : values) out.push_back(__float2bfloat16(v));
  return out;
}

inline std::vector<float> ToFloats(const std::vector<Bf16>& values) {
  std::vector<float> out;
  out.reserve(values.size());
  for (const Bf16 v : values) out.push_back(__bfloat162float(v));
  return out;
}

// |out - reference| / |reference|, in Euclid's norm; NaN where either has one.
template <typename T, typename R>
double RelativeError(const std::vector<T>& out, const std::vector<R>& reference) {
  EXPECT_EQ(out.size(), reference.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const double d = double{ToFloat(out[i])} - static_cast<double>(reference[i]);
    difference += d * d;
    norm += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
  }
  return std::sqrt(difference / norm);
}

}  // namespace engram::gpu
