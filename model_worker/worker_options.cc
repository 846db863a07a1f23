#include "model_worker/worker_options.h"

#include <chrono>
#include <map>
#include <set>
#include <string>

#include <CLI/CLI.hpp>

namespace engram {
namespace {

// A flag that takes one of some names.
template <typename T>
CLI::Option* AddNamedFlag(CLI::App* app, const char* flag, const std::map<std::string, T>& names,
                          T* value, const char* description) {
  std::set<std::string> allowed;
  for (const auto& [name, unused] : names) allowed.insert(name);
  return app
      ->add_option_function<std::string>(
          flag, [names, value](const std::string& name) { *value = names.at(name); }, description)
      ->check(CLI::IsMember(allowed));
}

Status CheckGpuDirect(const WorkerOptions& options) {
  const auto missing = [](const char* what) {
    return Status(StatusCode::kInvalidArgument, std::string("--gpu-direct needs ") + what);
  };
  if (options.backend != ComputeOn::kCuda) return missing("--backend cuda");
  if (options.rows != RowsFrom::kRemote) return missing("--rows remote");
  if (options.one_sided != "rdma" || options.way == ReadWay::kGather ||
      options.way == ReadWay::kMapped) {
    return missing(
        "--one-sided rdma, and --way auto or one-sided: other ways of reading bring rows by this "
        "host's processors");
  }
  if (options.cache_bytes != 0) {
    return missing("--cache-bytes 0: the row cache is in this host's memory");
  }
  return {};
}

}  // namespace

const char* ComputeOnName(ComputeOn backend) {
  return backend == ComputeOn::kCuda ? "cuda" : "cpu";
}

void AddModelFlags(CLI::App* app, WorkerOptions* options) {
  app->add_option("--model", options->model_dir,
                  "Folder with config.json, tokenizer.json and the weights, as published on "
                  "Hugging Face (make one with engramctl make-model)")
      ->required()
      ->check(CLI::ExistingDirectory);
  AddNamedFlag<ComputeOn>(app, "--backend", {{"cpu", ComputeOn::kCpu}, {"cuda", ComputeOn::kCuda}},
                          &options->backend,
                          "What computes the model: cpu = fp32 on the cores, cuda = bf16 on an "
                          "NVIDIA GPU (needs a build of the cuda preset)")
      ->default_str("cpu");
  app->add_option("--gpu", options->gpu,
                  "GPU of the cuda backend, as CUDA counts those that the process sees (default: "
                  "the only one that it sees, else GPU r for rank r of the host)")
      ->check(CLI::Range(0u, 1023u));
  app->add_option(
         "--threads", options->threads,
         "Compute threads of the cpu backend, of each rank; 0 = one per core, divided among "
         "the ranks on this host")
      ->capture_default_str()
      ->check(CLI::Range(0u, 1024u));
  app->add_option("--concurrency", options->concurrency,
                  "Requests computed at once: sequence slots of the KV cache")
      ->capture_default_str()
      ->check(CLI::Range(1u, 4096u));
  app->add_option("--positions", options->positions,
                  "Prompt and generated tokens of one request at most; the model may allow less")
      ->capture_default_str()
      ->check(CLI::Range(2u, 1u << 20));
  app->add_option(
         "--kv-tokens", options->kv_tokens,
         "Tokens that the KV cache has room for, over all requests; 0 = --concurrency times "
         "--positions. With less, a request waits until the longest that it may become "
         "fits beside those that run. On a GPU this is what memory is taken for")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 40));
  app->add_option("--step-tokens", options->step_tokens,
                  "Tokens in one step at most, over all requests")
      ->capture_default_str()
      ->check(CLI::Range(1u, 65536u));
  app->add_option("--prefill-chunk", options->prefill_chunk_tokens,
                  "Prompt tokens in one step at most: fewer keep running requests smooth, more "
                  "start new ones sooner")
      ->capture_default_str()
      ->check(CLI::Range(1u, 65536u));
}

void AddRowFlags(CLI::App* app, WorkerOptions* options, bool choice) {
  if (choice) {
    AddNamedFlag<RowsFrom>(
        app, "--rows",
        {{"remote", RowsFrom::kRemote},
         {"local", RowsFrom::kLocal},
         {"gpu", RowsFrom::kGpu},
         {"off", RowsFrom::kOff}},
        &options->rows,
        "Where Engram rows come from: remote = memory nodes, local = the model folder's tables "
        "loaded into this process, gpu = the same loaded into the memory of the cuda backend's "
        "GPU, off = no Engram")
        ->default_str("remote");
  }
  app->add_option("--coordinator", options->coordinator,
                  "host:port of the coordinator (several, with commas between): needed for "
                  "remote rows");
  AddSecurityFlags(app, &options->security);
  app->add_option("--transport", options->transport,
                  "tcp = as between hosts; shm = shared memory, on the nodes' own host; auto = "
                  "the best there is")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "tcp", "shm"}));
  app->add_option("--zone", options->zone,
                  "Where this host stands, as memory nodes say with their --zone: of several "
                  "replicas one in the same zone is read");
  AddNamedFlag<ReadWay>(app, "--way",
                        {{"auto", ReadWay::kAuto},
                         {"gather", ReadWay::kGather},
                         {"mapped", ReadWay::kMapped},
                         {"one-sided", ReadWay::kOneSided}},
                        &options->way,
                        "How rows are read: gather = one message with many rows, mapped = the "
                        "node's memory mapped here (same host), one-sided = by the network card; "
                        "auto = measured at connect time")
      ->default_str("auto");
  app->add_option("--one-sided", options->one_sided,
                  "What --way one-sided may use: rdma = network cards, of nodes that were started "
                  "with the same; shm = shared memory, to try it without a card")
      ->capture_default_str()
      ->check(CLI::IsMember({"off", "rdma", "shm"}));
  app->add_flag(
      "--gpu-direct", options->gpu_direct,
      "Have network cards put remote rows straight into the memory of the cuda backend's "
      "GPU (GPUDirect RDMA), which checks them. Where UCX, the card or the driver cannot, "
      "they come through this host's memory, with a line in the log that says why. Needs "
      "--one-sided rdma, --cache-bytes 0 and one rank");
  app->add_option("--io-threads", options->io_threads, "Threads that hash and read rows")
      ->capture_default_str()
      ->check(CLI::Range(1u, 32u));
  app->add_option(
         "--io-spin-us", options->io_spin_us,
         "How long an I/O thread without work, or the model's thread where it waits for "
         "rows or for its GPU, looks before it sleeps. Longer than a decode step, where there is "
         "a core to spare for each, saves waking them every step")
      ->capture_default_str()
      ->check(CLI::Range(0u, 1000000u));
  app->add_option("--cache-bytes", options->cache_bytes,
                  "Memory for hot rows of remote tables, such as 64MiB; 0 = none")
      ->transform(CLI::AsSizeValue(false))
      ->default_str(std::to_string(options->cache_bytes));
  app->add_option("--tables-timeout-s", options->tables_timeout_s,
                  "How long the start waits for the coordinator, and for a table version of this "
                  "model whose slots are all loaded")
      ->capture_default_str()
      ->check(CLI::Range(1u, 86'400u));
  app->add_option("--row-deadline-ms", options->row_deadline_ms,
                  "Rows that are later than this are an error of their requests")
      ->capture_default_str()
      ->check(CLI::Range(1u, 600000u));
  app->add_option("--row-retries", options->row_retries,
                  "How often a request is computed again after its rows could not be had")
      ->capture_default_str()
      ->check(CLI::Range(0u, 100u));
}

void AddRankFlags(CLI::App* app, WorkerOptions* options) {
  const std::string group = "Tensor parallelism (mpirun -np T engram-model-worker ...)";
  app->add_option("--tensor-parallel", options->tensor_parallel,
                  "Ranks that share the model: 0 = as many as mpirun started this program as, 1 = "
                  "one, whatever started it, more = just so many, or it is refused. A power of two "
                  "that divides the model's KV heads and the width of its MLP, up to 8")
      ->capture_default_str()
      ->check(CLI::Range(0u, 1024u))
      ->group(group);
  AddNamedFlag<FetchWay>(
      app, "--fetch",
      {{"auto", FetchWay::kAuto}, {"cooperative", FetchWay::kCooperative}, {"all", FetchWay::kAll}},
      &options->fetch.way,
      "How ranks get a step's rows: cooperative = each reads its share of the "
      "columns and they hand them round, all = each reads every row, auto = "
      "cooperative from --fetch-rows on")
      ->default_str("auto")
      ->group(group);
  app->add_option("--fetch-rows", options->fetch.cooperative_rows_min,
                  "Rows of a batch (tokens x columns x Engram layers) from which on --fetch auto "
                  "has the ranks read together")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 40))
      ->group(group);
  app->add_option("--rank-timeout-s", options->rank_timeout_s,
                  "A rank that keeps the others waiting this long within a step, and "
                  "--row-deadline-ms more, ends them all")
      ->capture_default_str()
      ->check(CLI::Range(1u, 86400u))
      ->group(group);
}

void AddSamplingFlags(CLI::App* app, SamplingParams* params) {
  app->add_option("--temperature", params->temperature, "0 = greedy: always the likeliest token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0));
  app->add_option("--top-k", params->top_k, "Sample among the k likeliest tokens; 0 = all")
      ->capture_default_str();
  app->add_option("--top-p", params->top_p,
                  "Sample among the likeliest tokens that together have this probability")
      ->capture_default_str();
  app->add_option("--seed", params->seed, "Of sampling; prompt i draws with seed + i")
      ->capture_default_str();
}

Status CheckWorkerOptions(const WorkerOptions& options) {
  if (options.rows == RowsFrom::kRemote && options.coordinator.empty()) {
    return {StatusCode::kInvalidArgument,
            "remote rows need --coordinator host:port (or use --rows local, --rows off)"};
  }
  if (options.rows == RowsFrom::kGpu && options.backend != ComputeOn::kCuda) {
    return {StatusCode::kInvalidArgument,
            "tables in GPU memory need --backend cuda (the cpu backend takes them from this "
            "process: --rows local)"};
  }
  if (options.gpu_direct) ENGRAM_RETURN_IF_ERROR(CheckGpuDirect(options));
  if (options.concurrency > options.step_tokens) {
    return {StatusCode::kInvalidArgument,
            "--concurrency is " + std::to_string(options.concurrency) +
                "; it must be at most --step-tokens, " + std::to_string(options.step_tokens) +
                ": every request adds a token to each step"};
  }
  return {};
}

std::chrono::milliseconds RankPatience(const WorkerOptions& options) {
  return std::chrono::seconds(options.rank_timeout_s) +
         std::chrono::milliseconds(options.row_deadline_ms);
}

Engine::Options EngineOptions(const WorkerOptions& options, int32_t vocabulary_size,
                              uint32_t queue_requests_max) {
  Engine::Options engine;
  engine.queue_requests_max = queue_requests_max;
  engine.sequences_max = options.concurrency;
  engine.step_tokens_max = options.step_tokens;
  engine.prefill_chunk_tokens = options.prefill_chunk_tokens;
  engine.row_retries_max = options.row_retries;
  engine.row_deadline = std::chrono::milliseconds(options.row_deadline_ms);
  engine.vocabulary_size = vocabulary_size;
  return engine;
}

}  // namespace engram
