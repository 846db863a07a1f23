// Owners of what CUDA hands out: device memory, pinned memory, streams, events. Move-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

#include <cuda_runtime_api.h>

#include "engram/base/status.h"
#include "model_worker/cuda/device_status.h"

namespace engram::gpu {

struct DeviceFree {
  void operator()(void* p) const { (void)cudaFree(p); }
};
struct PinnedFree {
  void operator()(void* p) const { (void)cudaFreeHost(p); }
};

// `count` values in device memory, not initialised.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  // ERRORS: kResourceExhausted naming `what` and the bytes wanted.
  [[nodiscard]] static Result<DeviceArray> Create(size_t count, const char* what) {
    DeviceArray array;
    array.count_ = count;
    if (count == 0) return array;
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, count * sizeof(T));
    if (error != cudaSuccess) {
      (void)cudaGetLastError();
      return Error(CudaStatus(error, "allocating device memory")
                       .WithContext(std::string(what) + " needs " +
                                    std::to_string(count * sizeof(T)) + " bytes on the GPU"));
    }
    array.data_.reset(static_cast<T*>(memory));
    return array;
  }
  [[nodiscard]] T* data() { return data_.get(); }
  [[nodiscard]] const T* data() const { return data_.get(); }
  [[nodiscard]] size_t size() const { return count_; }
  [[nodiscard]] size_t bytes() const { return count_ * sizeof(T); }

 private:
  std::unique_ptr<T, DeviceFree> data_;
  size_t count_ = 0;
};

// `count` values in host memory that the GPU copies from and to without help.
template <typename T>
class PinnedArray {
 public:
  PinnedArray() = default;
  // ERRORS: kResourceExhausted naming `what`.
  [[nodiscard]] static Result<PinnedArray> Create(size_t count, const char* what) {
    PinnedArray array;
    array.count_ = count;
    if (count == 0) return array;
    void* memory = nullptr;
    const cudaError_t error = cudaHostAlloc(&memory, count * sizeof(T), cudaHostAllocDefault);
    if (error != cudaSuccess) {
      (void)cudaGetLastError();
      return Error(CudaStatus(error, "allocating pinned memory")
                       .WithContext(std::string(what) + " needs " +
                                    std::to_string(count * sizeof(T)) + " bytes"));
    }
    array.data_.reset(static_cast<T*>(memory));
    return array;
  }
  [[nodiscard]] T* data() { return data_.get(); }
  [[nodiscard]] size_t size() const { return count_; }

 private:
  std::unique_ptr<T, PinnedFree> data_;
  size_t count_ = 0;
};

struct StreamDestroy {
  void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
};
struct EventDestroy {
  void operator()(cudaEvent_t event) const { (void)cudaEventDestroy(event); }
};
struct GraphDestroy {
  void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
};
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDestroy>;
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDestroy>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphDestroy>;

[[nodiscard]] inline Result<Stream> MakeStream() {
  cudaStream_t stream = nullptr;
  ENGRAM_TRY(
      CudaStatus(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream"));
  return Stream(stream);
}
// What is on it is begun before what waits on other streams.
[[nodiscard]] inline Result<Stream> MakeUrgentStream() {
  int least = 0;
  int greatest = 0;
  ENGRAM_TRY(CudaStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                        "asking for stream priorities"));
  cudaStream_t stream = nullptr;
  ENGRAM_TRY(CudaStatus(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
                        "creating a stream"));
  return Stream(stream);
}
// A host thread that waits for it sleeps.
[[nodiscard]] inline Result<Event> MakeEvent() {
  cudaEvent_t made = nullptr;
  const cudaError_t error =
      cudaEventCreateWithFlags(&made, cudaEventDisableTiming | cudaEventBlockingSync);
  Event event(made);
  ENGRAM_TRY(CudaStatus(error, "creating an event"));
  return event;
}

}  // namespace engram::gpu
