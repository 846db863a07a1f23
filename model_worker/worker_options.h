// What every subcommand of engram-model-worker takes on its command line.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <CLI/App.hpp>

#include "engram/base/status.h"
#include "engram/security/security_flags.h"
#include "engram/transport/read_way.h"
#include "model_worker/engine.h"
#include "model_worker/ranks/rank_leader.h"

namespace engram {

// kGpu: the model folder's tables, whole in the memory of the GPU that computes.
enum class RowsFrom : uint8_t { kRemote, kLocal, kGpu, kOff };
enum class ComputeOn : uint8_t { kCpu, kCuda };
[[nodiscard]] const char* ComputeOnName(ComputeOn backend);  // "cpu", "cuda"

struct WorkerOptions {
  std::string model_dir;
  // Compute.
  ComputeOn backend = ComputeOn::kCpu;
  std::optional<uint32_t> gpu;  // of the CUDA backend; nullopt = by the rank's number on its host
  uint32_t threads = 0;         // of the CPU backend; 0 = one per core that the rank has
  uint32_t concurrency = 8;
  uint32_t positions = 4096;  // at most; the model's own limit may be lower
  uint64_t kv_tokens = 0;     // of the KV cache, over all requests; 0 = concurrency * positions
  uint32_t step_tokens = 256;
  uint32_t prefill_chunk_tokens = 128;
  // Rows.
  RowsFrom rows = RowsFrom::kRemote;
  std::string coordinator;
  SecurityFlags security;
  std::string transport = "auto";  // auto, tcp, shm
  std::string zone;                // empty = no memory nodes are preferred
  ReadWay way = ReadWay::kAuto;
  std::string one_sided = "off";  // off, rdma, shm
  bool gpu_direct = false;        // cards put rows into the GPU's memory, where they can
  uint32_t io_threads = 1;
  uint32_t io_spin_us = 0;
  uint64_t cache_bytes = 64u << 20;
  uint32_t tables_timeout_s = 30;  // for a table version whose slots are all loaded
  uint32_t row_deadline_ms = 2000;
  uint32_t row_retries = 1;
  // Ranks that share the model. 0 = as many as mpirun started.
  uint32_t tensor_parallel = 0;
  FetchOptions fetch;
  uint32_t rank_timeout_s = 60;
};

void AddModelFlags(CLI::App* app, WorkerOptions* options);
// --rows only where `choice`; the others compare all of them.
void AddRowFlags(CLI::App* app, WorkerOptions* options, bool choice);
void AddRankFlags(CLI::App* app, WorkerOptions* options);
void AddSamplingFlags(CLI::App* app, SamplingParams* params);

// Checks what one flag says against another. ERRORS: kInvalidArgument naming the flag to give.
[[nodiscard]] Status CheckWorkerOptions(const WorkerOptions& options);

// How long a rank may keep the others waiting within a step: they may wait for its rows.
[[nodiscard]] std::chrono::milliseconds RankPatience(const WorkerOptions& options);

[[nodiscard]] Engine::Options EngineOptions(const WorkerOptions& options, int32_t vocabulary_size,
                                            uint32_t queue_requests_max);

}  // namespace engram
