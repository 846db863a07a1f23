// How fast are rows read from one memory node, and how near is that to what the wire and the memory
// allow?
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/command.h"
#include "bench/read_figures.h"
#include "bench/read_floor.h"
#include "bench/read_loop.h"
#include "bench/read_node.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/stage_sampler.h"
#include "bench/table_text.h"
#include "bench/v41_shape.h"

namespace engram::bench {
namespace {

struct ReadOptions {
  std::string transport = "tcp";
  std::string way = "auto";
  std::string one_sided = "off";
  std::vector<uint32_t> rows = {48, 1536, 12288};
  uint32_t row_values = kV41RowValues;
  uint64_t bytes = 2ull << 30;
  double seconds = 1;
  int repetitions = 7;
  uint32_t io_threads = 1;
  uint32_t io_spin_us = 0;
  uint32_t gather_threads = 1;
  uint32_t replicas = 1;
  bool profile = false;
  uint64_t cache_bytes = 0;
  TokenOptions tokens;
  NetworkOptions network;  // of own nodes
  ClusterOptions cluster;
  std::string json_file;
};

// Rows of a batch of a cluster.
constexpr uint32_t kClusterBatchRowsMax = 1u << 20;

// Memory nodes of this run's own, and what they are compared with.
struct OwnNodes {
  std::unique_ptr<HostNetwork> network;  // null: all on this host
  SharedMemory copy;                     // of a node's rows
  // One of each replica, with all rows. The first also answers the floor.
  std::vector<std::unique_ptr<ReadNode>> nodes;
  std::unique_ptr<NgramHasher> hasher;
};

// What is measured, all of it made once.
struct Subject {
  TokenSource tokens;
  std::shared_ptr<const TableLayout> layout;
  std::unique_ptr<OwnNodes> own;  // null: a cluster's nodes
  std::function<Result<std::unique_ptr<RowSource>>()> connect;
  std::unique_ptr<RowSource> rows;  // anew for every repetition where there is a cache

  // An empty cache, for what it keeps from one repetition to the next is no measurement of it.
  Status Reconnect() {
    rows.reset();
    auto connected = connect();
    if (!connected.has_value()) return connected.error();
    rows = *std::move(connected);
    return {};
  }
  [[nodiscard]] std::vector<NodeContact> Nodes() const {
    std::vector<NodeContact> nodes;
    if (own == nullptr) return nodes;
    for (const auto& node : own->nodes) nodes.push_back(node->contact());
    return nodes;
  }
  [[nodiscard]] uint32_t RowsPerToken() const {
    return static_cast<uint32_t>(layout->column_count() * layout->layer_count());
  }
};

// The floor of the way that rows take: what the stack does is compared with it.
enum class FloorKind : uint8_t { kGather, kMapped };

FloorKind FloorOf(const ReadOptions& options) {
  const bool gathers = options.way == "gather" || options.transport == "tcp";
  return gathers ? FloorKind::kGather : FloorKind::kMapped;
}

ReaderOptions ReaderOf(const ReadOptions& options, uint32_t tokens_max) {
  return {.transport = options.transport,
          .way = options.way,
          .one_sided = options.one_sided,
          .io_threads = options.io_threads,
          .io_spin_us = options.io_spin_us,
          .cache_bytes = options.cache_bytes,
          .batch_tokens_max = tokens_max,
          .replicas = options.replicas,
          .zone = options.cluster.zone};
}

Result<std::unique_ptr<OwnNodes>> StartNodes(const ReadOptions& options,
                                             const std::shared_ptr<const TableLayout>& layout,
                                             const std::vector<int32_t>& compression) {
  std::fprintf(stderr, "making %.2f GiB of rows in %s, and a copy here\n",
               static_cast<double>(layout->total_bytes()) / (1 << 30),
               options.replicas == 1
                   ? "a memory node of its own"
                   : ("each of " + std::to_string(options.replicas) + " memory nodes").c_str());
  std::unique_ptr<HostNetwork> network;
  if (options.network.any()) {
    ENGRAM_ASSIGN_OR_RETURN(network, HostNetwork::Create(options.network, 1 + options.replicas));
  }
  ENGRAM_ASSIGN_OR_RETURN(SharedMemory copy, SharedMemory::Create(layout->total_bytes(), true));
  ReadNode::Options node_options;
  node_options.network = network.get();
  node_options.transport = options.transport;
  node_options.one_sided = options.one_sided;
  node_options.gather_threads = options.gather_threads;
  node_options.bare_server = FloorOf(options) == FloorKind::kGather;
  node_options.copy = &copy;
  std::vector<std::unique_ptr<ReadNode>> nodes;
  for (uint32_t replica = 0; replica < options.replicas; ++replica) {
    node_options.host = 1 + replica;
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<ReadNode> node, ReadNode::Start(node_options, layout));
    nodes.push_back(std::move(node));
    node_options.bare_server = false;
    node_options.copy = nullptr;
  }
  copy.Populate();
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(layout->spec().hash, compression));
  return std::make_unique<OwnNodes>(OwnNodes{std::move(network), std::move(copy), std::move(nodes),
                                             std::make_unique<NgramHasher>(std::move(hasher))});
}

Result<Subject> PrepareOwn(const ReadOptions& options) {
  const uint32_t rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  const uint32_t tokens_max = rows_max / kV41RowsPerToken;
  ENGRAM_ASSIGN_OR_RETURN(TokensOfModel made_tokens, MakeTokens(options.tokens, 0, tokens_max));
  auto& [tokens, compression] = made_tokens;
  const int64_t ids = *std::max_element(compression.begin(), compression.end()) + 1;
  ENGRAM_ASSIGN_OR_RETURN(TableLayout made,
                          TableLayout::Create(V41Spec(options.bytes, ids, options.row_values)));
  auto layout = std::make_shared<const TableLayout>(std::move(made));
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<OwnNodes> own, StartNodes(options, layout, compression));
  Subject subject{.tokens = std::move(tokens),
                  .layout = layout,
                  .own = std::move(own),
                  .connect = {},
                  .rows = nullptr};
  subject.connect = [nodes = subject.Nodes(), reader = ReaderOf(options, tokens_max), layout,
                     compression = std::move(compression)] {
    return ConnectTo(nodes, reader, layout, compression);
  };
  if (Status status = subject.Reconnect(); !status.ok()) return Error(std::move(status));
  if (Status status =
          ReadLoop(subject.rows.get(), subject.Nodes(), &subject.tokens).CheckContents(tokens_max);
      !status.ok()) {
    return Error(std::move(status));
  }
  return subject;
}

Result<Subject> PrepareCluster(const ReadOptions& options) {
  ReaderOptions reader = ReaderOf(options, 0);
  ENGRAM_ASSIGN_OR_RETURN(reader.security, OpenSecurity(options.cluster.security));
  ENGRAM_ASSIGN_OR_RETURN(const auto directory, FindCluster(options.cluster.coordinators, reader));
  const std::shared_ptr<const TableLayout>& layout = directory->layout();
  const auto rows_per_token = static_cast<uint32_t>(layout->column_count() * layout->layer_count());
  for (const uint32_t rows : options.rows) {
    ENGRAM_TRY(CheckBatchRows(rows, kClusterBatchRowsMax, rows_per_token));
  }
  const uint32_t tokens_max =
      *std::max_element(options.rows.begin(), options.rows.end()) / rows_per_token;
  ENGRAM_ASSIGN_OR_RETURN(
      TokensOfModel tokens,
      MakeTokens(options.tokens, static_cast<int32_t>(layout->spec().hash.compressed_vocab_size),
                 tokens_max));
  Subject subject{.tokens = std::move(tokens.tokens),
                  .layout = layout,
                  .own = nullptr,
                  .connect = {},
                  .rows = nullptr};
  std::fprintf(stderr, "version %llu of the cluster: %.2f GiB of rows on %zu memory nodes\n",
               static_cast<unsigned long long>(directory->version().value()),
               static_cast<double>(subject.layout->total_bytes()) / (1 << 30),
               directory->Current()->nodes.size());
  reader.batch_tokens_max = tokens_max;
  subject.connect = [directory, reader, compression = std::move(tokens.compression)] {
    return ConnectToCluster(directory, reader, compression);
  };
  if (Status status = subject.Reconnect(); !status.ok()) return Error(std::move(status));
  return subject;
}

// What one batch size is compared with, on own nodes.
class Floor {
 public:
  // `subject` outlives it. ERRORS: those of the floor.
  [[nodiscard]] static Result<Floor> Prepare(const ReadOptions& options, const Subject& subject,
                                             uint32_t tokens) {
    Floor floor(options, subject, tokens);
    if (floor.gathers_) {
      if (Status status =
              floor.reads_->PrepareGather(*subject.own->nodes[0], options.transport, tokens);
          !status.ok()) {
        return Error(std::move(status));
      }
    }
    (void)floor.reads_->RunCopy(subject.own->copy, tokens,
                                0.1);  // its first batch takes page faults
    return floor;
  }
  // One repetition: the bare loop and the local gather.
  Status Run(double seconds) {
    tokens_->Rewind();
    const FloorMeasured local = reads_->RunCopy(*copy_, batch_tokens_, seconds / 4);
    local_rates_.push_back(local.rows_s);
    FloorMeasured bare = local;
    if (gathers_) {
      auto measured = reads_->RunGather(batch_tokens_, seconds / 2);
      if (!measured.has_value()) return measured.error();
      bare = *std::move(measured);
    }
    rates_.push_back(bare.rows_s);
    took_.Merge(bare.took);
    return {};
  }
  // Of the last repetition.
  [[nodiscard]] double rows_s() const { return rates_.back(); }
  void Tell(ReadFigures* figures) const {
    figures->floor_rows_s = SpreadOf(rates_);
    figures->local_rows_s = SpreadOf(local_rates_);
    figures->floor_took = took_;
    figures->floor_messages = reads_->messages();
  }

 private:
  Floor(const ReadOptions& options, const Subject& subject, uint32_t tokens)
      : gathers_(FloorOf(options) == FloorKind::kGather),
        batch_tokens_(tokens),
        copy_(&subject.own->copy),
        tokens_(std::make_unique<TokenSource>(subject.tokens)),
        reads_(std::make_unique<ReadFloor>(subject.layout.get(), subject.own->hasher.get(),
                                           tokens_.get())) {}

  bool gathers_;
  uint32_t batch_tokens_;
  const SharedMemory* copy_;
  std::unique_ptr<TokenSource> tokens_;
  std::unique_ptr<ReadFloor> reads_;
  std::vector<double> rates_;
  std::vector<double> local_rates_;
  LatencyHistogram took_;
};

// Stack, floor and local gather in turns, so that what the machine does meanwhile meets all three.
Result<ReadFigures> Measure(const ReadOptions& options, uint32_t row_count, Subject& subject) {
  const uint32_t tokens = row_count / subject.RowsPerToken();
  std::optional<Floor> floor;
  if (subject.own != nullptr) {
    ENGRAM_ASSIGN_OR_RETURN(floor, Floor::Prepare(options, subject, tokens));
  }
  const auto run_stack = [&](double seconds) {
    return ReadLoop(subject.rows.get(), subject.Nodes(), &subject.tokens).Run(tokens, seconds);
  };
  if (const auto warm = run_stack(options.seconds / 4); !warm.has_value()) {
    return Error(warm.error());
  }

  ReadFigures figures;
  figures.rows = row_count;
  figures.own_nodes = subject.own != nullptr;
  std::vector<double> stack_rates;
  std::vector<double> ratios;
  RowSourceStats total;
  double node_cpu = 0;
  double seconds = 0;
  const auto measure_stack = [&]() -> Status {
    std::optional<StageSampler> sampler;
    if (options.profile) sampler.emplace(subject.rows.get());
    const auto measured = run_stack(options.seconds);
    if (sampler.has_value()) {
      const StageCounts seen = sampler->Stop();
      for (size_t stage = 0; stage < seen.size(); ++stage) figures.stages[stage] += seen[stage];
    }
    if (!measured.has_value()) return measured.error();
    stack_rates.push_back(measured->rows_s);
    figures.stack_took.Merge(measured->took);
    total.rows_asked += measured->stats.rows_asked;
    total.rows_unique += measured->stats.rows_unique;
    total.rows_from_cache += measured->stats.rows_from_cache;
    total.row_path_cpu_ns += measured->stats.row_path_cpu_ns;
    node_cpu += measured->node_cpu_seconds;
    seconds += measured->seconds;
    return {};
  };
  for (int i = 0; i < options.repetitions; ++i) {
    subject.tokens.Rewind();
    if (options.cache_bytes > 0) ENGRAM_TRY(subject.Reconnect());
    const bool stack_first = i % 2 == 0;
    if (stack_first) ENGRAM_TRY(measure_stack());
    if (floor.has_value()) ENGRAM_TRY(floor->Run(options.seconds));
    if (!stack_first) ENGRAM_TRY(measure_stack());
    if (floor.has_value()) ratios.push_back(stack_rates.back() / floor->rows_s());
  }
  const auto asked = static_cast<double>(total.rows_asked);
  figures.stack_rows_s = SpreadOf(stack_rates);
  figures.client_cpu_us_per_row = static_cast<double>(total.row_path_cpu_ns) / 1e3 / asked;
  figures.thread_us_per_row = 1e6 * seconds * options.io_threads / asked;
  figures.from_cache = static_cast<double>(total.rows_from_cache) / asked;
  figures.deduped = 1 - static_cast<double>(total.rows_unique) / asked;
  if (floor.has_value()) {
    floor->Tell(&figures);
    figures.ratio = SpreadOf(ratios);
    figures.node_cpu_us_per_row = 1e6 * node_cpu / asked;
  }
  return figures;
}

Status Check(const ReadOptions& options) {
  for (const uint32_t rows : options.rows) {
    if (!options.cluster.coordinators.empty()) break;  // its tokens may have another number of rows
    ENGRAM_RETURN_IF_ERROR(CheckBatchRows(rows, BareGather::kBatchRowsMax, kV41RowsPerToken));
  }
  ENGRAM_RETURN_IF_ERROR(CheckNetwork(options.network, options.transport));
  if (options.way == "one-sided" && options.cluster.coordinators.empty()) {
    return {StatusCode::kInvalidArgument,
            "--way one-sided has no floor here yet: use gather or mapped"};
  }
  return {};
}

Status Run(const ReadOptions& options) {
  ENGRAM_RETURN_IF_ERROR(Check(options));
  const bool own = options.cluster.coordinators.empty();
  Report report("read", options.tokens.seed,
                own ? "How fast are rows read from one memory node?"
                    : "How fast are rows read from this cluster?");
  report.AddSetting("transport", options.transport);
  report.AddSetting("way", options.way);
  report.AddSetting("ids", options.tokens.ids_file.empty() ? "uniform" : options.tokens.ids_file);
  report.AddSetting("cache_bytes", options.cache_bytes);
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_each", options.seconds);
  report.AddSetting("io_threads", options.io_threads);
  report.AddSetting("io_spin_us", options.io_spin_us);

  auto subject = own ? PrepareOwn(options) : PrepareCluster(options);
  if (!subject.has_value()) return subject.error();
  report.AddSetting("row_bytes", subject->layout->row_bytes());
  if (own) {
    report.AddSetting("table_bytes", options.bytes);
    report.AddSetting("gather_threads", options.gather_threads);
    report.AddSetting("replicas", options.replicas);
    AddNetworkSettings(options.network, &report);
    report.AddSetting("floor", FloorOf(options) == FloorKind::kGather ? "gather" : "mapped");
    report.AddSetting("node_huge_pages", subject->own->nodes[0]->huge_pages());
  } else {
    report.AddSetting("table_bytes", subject->layout->total_bytes());
    report.AddSetting("coordinator", options.cluster.coordinators.front());
  }

  nlohmann::json points = nlohmann::json::array();
  std::vector<ReadFigures> batches;
  for (const uint32_t rows : options.rows) {
    std::fprintf(stderr, "batches of %u rows\n", rows);
    auto figures = Measure(options, rows, *subject);
    if (!figures.has_value()) return figures.error();
    points.push_back(ToJson(*figures));
    batches.push_back(*std::move(figures));
  }
  for (const Table& table : ReadTables(batches, options.profile)) {
    PrintTable(table);
    report.AddTable(table);
  }
  report.AddPlot(RatePlot(batches));
  for (const ReadFigures& figures : batches) report.AddPlot(LatencyPlot(figures));
  report.AddResult("batches", points);
  const ReadFigures& last = batches.back();
  report.AddResult("stack_rows_s", last.stack_rows_s.median);
  if (own) {
    report.AddResult("floor_rows_s", last.floor_rows_s.median);
    report.AddResult("local_rows_s", last.local_rows_s.median);
    report.AddResult("ratio", last.ratio.median);
  }
  report.AddResult("p50_us", last.stack_took.PercentileUs(0.5));
  report.AddResult("p99_us", last.stack_took.PercentileUs(0.99));
  return report.Write(options.json_file);
}

}  // namespace

void AddReadCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<ReadOptions>();
  CLI::App* sub = app.add_subcommand(
      "read",
      "How fast are rows read from one memory node? Starts a node of its own with made-up rows of\n"
      "the V4.1 shape (48 rows a token), then reads batches in a closed loop: hash, dedupe,\n"
      "cache, read, verify every row, scatter. Beside it, in turns, the floor: the same rows by a\n"
      "bare UCX loop of the same way with nothing added (or, mapped, by a bare copy), and a local\n"
      "gather by one thread. Medians of the repetitions are shown. The floor leaves no row out:\n"
      "with a cache or repeated text the stack may be above it. With --coordinator the rows of a\n"
      "cluster that is there are read instead, from its own memory nodes, and there is no floor.");
  sub->add_option("--transport", options->transport, "What rows travel over")
      ->check(CLI::IsMember({"tcp", "shm", "auto"}))
      ->capture_default_str();
  sub->add_option("--way", options->way, "How rows are read")
      ->check(CLI::IsMember({"auto", "gather", "mapped", "one-sided"}))
      ->capture_default_str();
  sub->add_option("--one-sided", options->one_sided, "Let the one-sided way be: off, shm or rdma")
      ->check(CLI::IsMember({"off", "shm", "rdma"}))
      ->capture_default_str();
  sub->add_option(
         "--rows", options->rows,
         "Rows of a batch, 48 a token (of a cluster: its layers x columns); one measurement each")
      ->delimiter(',')
      ->capture_default_str();
  CLI::Option* const cluster = AddClusterOptions(*sub, options->cluster);
  AddNetworkOptions(*sub, options->network, cluster);
  sub->add_option("--row-values", options->row_values, "Values of a row: 256 make 264 bytes")
      ->check(CLI::Range(32, 8192))
      ->capture_default_str()
      ->excludes(cluster);
  sub->add_option("--bytes", options->bytes, "Bytes of the tables")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str()
      ->excludes(cluster);
  sub->add_option("--io-threads", options->io_threads, "Of the client")->capture_default_str();
  sub->add_option("--io-spin-us", options->io_spin_us,
                  "The client's threads look for work this long before they sleep, as a model\n"
                  "worker's with --io-spin-us; the floor never sleeps")
      ->check(CLI::Range(0u, 1000000u))
      ->capture_default_str();
  sub->add_option("--gather-threads", options->gather_threads, "Of the node")
      ->capture_default_str()
      ->excludes(cluster);
  sub->add_option("--replicas", options->replicas,
                  "Memory nodes with all rows: the first is near and read, hedges go to the others")
      ->check(CLI::Range(1, 3))
      ->capture_default_str()
      ->excludes(cluster);
  sub->add_flag(
      "--profile", options->profile,
      "Show where the client's time goes: hash, plan (dedupe, cache), post (route, ask), wire\n"
      "(inside the transport, polling too), track (what came), verify, scatter, asleep");
  sub->add_option("--cache", options->cache_bytes, "Bytes of the client's row cache")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option(
         "--ids-file", options->tokens.ids_file,
         "Read these tokens' rows, in their order: one JSON list of ids (else random ones)")
      ->check(CLI::ExistingFile);
  sub->add_option(
         "--tokenizer", options->tokens.tokenizer_file,
         "The tokenizer.json of those ids: some then share their rows, as they do in a model")
      ->check(CLI::ExistingFile);
  AddRunOptions(*sub, options->seconds, options->repetitions, options->tokens.seed,
                options->json_file);
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench
