// The subcommands of engram-model-worker. Each returns when its work is done or was interrupted.
#pragma once

#include <cstdint>
#include <string>

#include "engram/base/status.h"
#include "model_worker/sampling.h"
#include "model_worker/worker_options.h"

namespace engram {

struct GenerateOptions {
  WorkerOptions worker;
  SamplingParams sampling;
  std::string prompts_file;
  uint32_t tokens_max = 64;
  bool ignore_stop = false;
  bool quiet = false;     // no texts
  std::string json_file;  // empty = none
};
// Prints every prompt's text, then the figures. ERRORS: the first request that failed, after the
// report was written.
[[nodiscard]] Status RunGenerate(const GenerateOptions& options);

struct CompareCommandOptions {
  WorkerOptions worker;
  SamplingParams sampling;
  std::string prompts_file;
  uint32_t tokens_max = 32;
  uint32_t pairs = 11;
  uint32_t off_runs = 3;
  bool gpu_tables = false;  // also with the tables in GPU memory
  std::string json_file;
};
// ERRORS: those of the runs; kInternal when the tokens of the sides with rows differ.
[[nodiscard]] Status RunCompare(const CompareCommandOptions& options);

struct ServeOptions {
  WorkerOptions worker;
  std::string listen = "127.0.0.1:8080";
  uint32_t queue_requests_max = 64;
  uint32_t drain_timeout_s = 110;  // for requests in progress, after the signal to end
  uint64_t seed = 0;
  std::string model_name;     // empty = the folder's name
  std::string announce_file;  // empty = none
};
// Until SIGINT or SIGTERM, then until requests in progress are answered; of several ranks SIGUSR1,
// which mpirun hands on.
[[nodiscard]] Status RunServe(const ServeOptions& options);

struct MeasureFetchOptions {
  WorkerOptions worker;
  uint32_t pairs = 101;
  std::string json_file;  // empty = none
};
// On every rank of mpirun: how long a batch's rows take, read together and by every rank.
[[nodiscard]] Status RunMeasureFetch(const MeasureFetchOptions& options);

}  // namespace engram
