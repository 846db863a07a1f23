// CUDA's runtime on the host, as far as the CUDA backend and its tests need it. Device memory is
// the process's own; streams, events and graphs are device_queue.h's. So the backend and its
// kernels are tested where there is no GPU, under ASan too. Each host thread has a device of its
// own, whatever number it gives it, and what is a thread's no other may use.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/cuda_on_host/device_queue.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNotReady = 600,
  cudaErrorHostMemoryAlreadyRegistered = 712,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrGPUDirectRDMAWritesOrdering };
enum { cudaGPUDirectRDMAWritesOrderingNone = 0, cudaGPUDirectRDMAWritesOrderingOwner = 100 };
enum cudaFlushGPUDirectRDMAWritesTarget { cudaFlushGPUDirectRDMAWritesTargetCurrentDevice };
enum cudaFlushGPUDirectRDMAWritesScope { cudaFlushGPUDirectRDMAWritesToOwner = 100 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

using cudaStream_t = CUstream_st*;
using cudaEvent_t = CUevent_st*;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;

inline constexpr unsigned cudaHostAllocDefault = 0;
inline constexpr unsigned cudaHostRegisterPortable = 1;
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline constexpr unsigned cudaEventBlockingSync = 1;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "an error";
}
inline const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 4;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device < 4 ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int /*device*/) {
  *value = which == cudaDevAttrComputeCapabilityMajor ? 9 : cudaGPUDirectRDMAWritesOrderingNone;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceFlushGPUDirectRDMAWrites(cudaFlushGPUDirectRDMAWritesTarget /*target*/,
                                                      cudaFlushGPUDirectRDMAWritesScope /*scope*/) {
  return cudaSuccess;
}
struct cudaDeviceProp {
  char name[256];
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
  std::strcpy(properties->name, "the host");
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  engram::cuda_on_host::RunAllStreams();
  return cudaSuccess;
}

inline constexpr size_t kDeviceBytes = size_t{4} << 30;

inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = bytes > kDeviceBytes ? nullptr : std::malloc(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* memory) {
  engram::cuda_on_host::RunAllStreams();
  std::free(memory);
  return cudaSuccess;
}
inline cudaError_t cudaHostRegister(void* memory, size_t bytes, unsigned /*flags*/) {
  return engram::cuda_on_host::Pin(memory, bytes) ? cudaSuccess
                                                  : cudaErrorHostMemoryAlreadyRegistered;
}
inline cudaError_t cudaHostUnregister(void* memory) {
  engram::cuda_on_host::Unpin(memory);
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags) {
  const cudaError_t error = cudaMalloc(memory, bytes);
  return error == cudaSuccess ? cudaHostRegister(*memory, bytes, flags) : error;
}
inline cudaError_t cudaFreeHost(void* memory) {
  engram::cuda_on_host::RunAllStreams();
  if (memory != nullptr) engram::cuda_on_host::Unpin(memory);
  std::free(memory);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  using namespace engram::cuda_on_host;
  if (bytes == 0) return cudaSuccess;
  if (kind == cudaMemcpyHostToDevice && !IsPinned(from)) {
    // CUDA takes what is not pinned before it returns.
    const auto* begin = static_cast<const std::byte*>(from);
    std::vector<std::byte> taken(begin, begin + bytes);
    Enqueue(stream, {[to, taken] { std::memcpy(to, taken.data(), taken.size()); }});
    return cudaSuccess;
  }
  Enqueue(stream, {[to, from, bytes] { std::memcpy(to, from, bytes); }});
  if (kind == cudaMemcpyDeviceToHost && !IsPinned(to)) RunAll(stream);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  engram::cuda_on_host::RunAll(nullptr);
  return error;
}
inline cudaError_t cudaMemset(void* memory, int value, size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  engram::cuda_on_host::Enqueue(nullptr,
                                {[memory, value, bytes] { std::memset(memory, value, bytes); }});
  return cudaSuccess;
}

inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* all_bytes) {
  *free_bytes = *all_bytes = kDeviceBytes;
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned /*flags*/) {
  *stream = engram::cuda_on_host::MakeStream();
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags,
                                                int /*priority*/) {
  return cudaStreamCreateWithFlags(stream, flags);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  engram::cuda_on_host::EndStream(stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  engram::cuda_on_host::RunAll(stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return engram::cuda_on_host::Idle(stream) ? cudaSuccess : cudaErrorNotReady;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
                                       unsigned /*flags*/ = 0) {
  engram::cuda_on_host::WaitFor(stream, event);
  return cudaSuccess;
}
inline cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void*), void* data) {
  engram::cuda_on_host::Enqueue(stream, {[function, data] { function(data); }});
  return cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned /*flags*/) {
  *event = new CUevent_st;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  engram::cuda_on_host::RunUntil(event, event->recorded);
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  engram::cuda_on_host::Record(event, stream);
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  engram::cuda_on_host::RunUntil(event, event->recorded);
  return cudaSuccess;
}
// A GPU that is looked at gets something done.
inline cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }

inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode /*mode*/) {
  engram::cuda_on_host::BeginCapture(stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = engram::cuda_on_host::EndCapture(stream);
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph,
                                        unsigned long long /*flags*/) {
  *made = new CUgraphExec_st{*graph};
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  engram::cuda_on_host::RunAllStreams();
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const auto& operation : graph->operations) engram::cuda_on_host::Enqueue(stream, operation);
  return cudaSuccess;
}
