// How fast are rows read from one memory node, and how near is that to what the wire and the memory
// allow?
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/command.h"
#include "bench/read_floor.h"
#include "bench/read_loop.h"
#include "bench/read_node.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/table_text.h"
#include "bench/v41_shape.h"
#include "engram/tokenizer/tokenizer.h"

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
  uint32_t gather_threads = 1;
  uint32_t replicas = 1;
  uint64_t cache_bytes = 0;
  std::string ids_file;
  std::string tokenizer_file;
  uint64_t seed = 1;
  std::string json_file;
};

// What is measured, all of it made once.
struct Subject {
  TokenSource tokens;
  std::vector<int32_t> compression;  // [vocabulary]
  std::shared_ptr<const TableLayout> layout;
  SharedMemory copy;  // of a node's rows
  // One of each replica, with all rows. The first also answers the floor.
  std::vector<std::unique_ptr<ReadNode>> nodes;
  std::unique_ptr<NgramHasher> hasher;
  ReaderOptions reader;
  std::unique_ptr<RowSource> rows;  // anew for every repetition where there is a cache

  // An empty cache, for what it keeps from one repetition to the next is no measurement of it.
  Status Reconnect() {
    rows.reset();
    auto connected = ConnectTo(NodePointers(), reader, layout, compression);
    if (!connected.has_value()) return connected.error();
    rows = *std::move(connected);
    return {};
  }
  [[nodiscard]] std::vector<const ReadNode*> NodePointers() const {
    std::vector<const ReadNode*> pointers;
    for (const auto& node : nodes) pointers.push_back(node.get());
    return pointers;
  }
};

// The floor of the way that rows take: what the stack does is compared with it.
enum class FloorKind : uint8_t { kGather, kMapped };

FloorKind FloorOf(const ReadOptions& options) {
  const bool gathers = options.way == "gather" || options.transport == "tcp";
  return gathers ? FloorKind::kGather : FloorKind::kMapped;
}

// The middle repetition and what varied between them, of one batch size.
struct Batch {
  uint32_t rows = 0;
  Spread stack_rows_s;
  Spread floor_rows_s;
  Spread local_rows_s;
  Spread ratio;  // stack over floor, repetition by repetition
  LatencyHistogram stack_took;
  LatencyHistogram floor_took;
  double client_cpu_us_per_row = 0;
  double node_cpu_us_per_row = 0;
  double from_cache = 0;  // share of the rows asked
  double deduped = 0;     // likewise
  BareMessages floor_messages;
};

Result<std::vector<int32_t>> CompressionOf(const ReadOptions& options, int32_t vocabulary) {
  if (!options.tokenizer_file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(options.tokenizer_file));
    if (tokenizer.vocabulary_size() < vocabulary) {
      return Error(StatusCode::kInvalidArgument, options.ids_file + " has token id " +
                                                     std::to_string(vocabulary - 1) + ", " +
                                                     options.tokenizer_file + " knows ids below " +
                                                     std::to_string(tokenizer.vocabulary_size()));
    }
    ENGRAM_ASSIGN_OR_RETURN(TokenCompression compression, CompressVocabulary(tokenizer));
    return std::move(compression.table);
  }
  return IdentityCompression(vocabulary);
}

Result<Subject> Prepare(const ReadOptions& options) {
  const uint32_t rows_max = *std::max_element(options.rows.begin(), options.rows.end());
  const uint32_t tokens_max = rows_max / kV41RowsPerToken;
  TokenSource tokens = TokenSource::Random(kV41CompressedIds, options.seed);
  if (!options.ids_file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(tokens, TokenSource::Open(options.ids_file, tokens_max));
  }
  ENGRAM_ASSIGN_OR_RETURN(std::vector<int32_t> compression,
                          CompressionOf(options, tokens.vocabulary()));
  const int64_t ids = *std::max_element(compression.begin(), compression.end()) + 1;
  ENGRAM_ASSIGN_OR_RETURN(TableLayout made,
                          TableLayout::Create(V41Spec(options.bytes, ids, options.row_values)));
  auto layout = std::make_shared<const TableLayout>(std::move(made));
  std::fprintf(stderr, "making %.2f GiB of rows in %s, and a copy here\n",
               static_cast<double>(layout->total_bytes()) / (1 << 30),
               options.replicas == 1
                   ? "a memory node of its own"
                   : ("each of " + std::to_string(options.replicas) + " memory nodes").c_str());
  ENGRAM_ASSIGN_OR_RETURN(SharedMemory copy, SharedMemory::Create(layout->total_bytes(), true));
  ReadNode::Options node_options;
  node_options.transport = options.transport;
  node_options.one_sided = options.one_sided;
  node_options.gather_threads = options.gather_threads;
  node_options.bare_server = FloorOf(options) == FloorKind::kGather;
  node_options.copy = &copy;
  std::vector<std::unique_ptr<ReadNode>> nodes;
  for (uint32_t replica = 0; replica < options.replicas; ++replica) {
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<ReadNode> node, ReadNode::Start(node_options, layout));
    nodes.push_back(std::move(node));
    node_options.bare_server = false;
    node_options.copy = nullptr;
  }
  copy.Populate();
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(layout->spec().hash, compression));
  Subject subject{.tokens = std::move(tokens),
                  .compression = std::move(compression),
                  .layout = std::move(layout),
                  .copy = std::move(copy),
                  .nodes = std::move(nodes),
                  .hasher = std::make_unique<NgramHasher>(std::move(hasher)),
                  .reader = {.transport = options.transport,
                             .way = options.way,
                             .one_sided = options.one_sided,
                             .io_threads = options.io_threads,
                             .cache_bytes = options.cache_bytes,
                             .batch_tokens_max = tokens_max,
                             .replicas = options.replicas},
                  .rows = nullptr};
  if (Status status = subject.Reconnect(); !status.ok()) return Error(std::move(status));
  return subject;
}

// Stack, floor and local gather in turns, so that what the machine does meanwhile meets all three.
Result<Batch> Measure(const ReadOptions& options, uint32_t row_count, Subject& subject) {
  const uint32_t tokens = row_count / kV41RowsPerToken;
  TokenSource floor_tokens = subject.tokens;
  ReadFloor floor(subject.layout.get(), subject.hasher.get(), &floor_tokens);
  const bool gathers = FloorOf(options) == FloorKind::kGather;
  if (gathers) {
    if (Status status = floor.PrepareGather(*subject.nodes[0], options.transport, tokens);
        !status.ok()) {
      return Error(std::move(status));
    }
  }
  (void)floor.RunCopy(subject.copy, tokens, 0.1);  // its first batch takes page faults
  const auto connect_anew = [&]() -> Status {
    subject.tokens.Rewind();
    return options.cache_bytes > 0 ? subject.Reconnect() : Status();
  };
  const auto run_stack = [&](double seconds) {
    return ReadLoop(subject.rows.get(), subject.NodePointers(), &subject.tokens)
        .Run(tokens, seconds);
  };
  if (const auto warm = run_stack(options.seconds / 4); !warm.has_value()) {
    return Error(warm.error());
  }

  Batch batch;
  batch.rows = row_count;
  std::vector<double> stack_rates;
  std::vector<double> floor_rates;
  std::vector<double> local_rates;
  std::vector<double> ratios;
  RowSourceStats total;
  double node_cpu = 0;
  for (int i = 0; i < options.repetitions; ++i) {
    if (Status status = connect_anew(); !status.ok()) return Error(std::move(status));
    std::optional<Measured> stack;
    std::optional<FloorMeasured> bare;
    const auto measure_stack = [&]() -> Status {
      auto measured = run_stack(options.seconds);
      if (!measured.has_value()) return measured.error();
      stack = *std::move(measured);
      return {};
    };
    const auto measure_floor = [&]() -> Status {
      floor_tokens.Rewind();
      const FloorMeasured local = floor.RunCopy(subject.copy, tokens, options.seconds / 4);
      local_rates.push_back(local.rows_s);
      if (!gathers) {
        bare = local;
        return {};
      }
      auto measured = floor.RunGather(tokens, options.seconds / 2);
      if (!measured.has_value()) return measured.error();
      bare = *std::move(measured);
      return {};
    };
    const bool stack_first = i % 2 == 0;
    Status status = stack_first ? measure_stack() : measure_floor();
    if (status.ok()) status = stack_first ? measure_floor() : measure_stack();
    if (!status.ok()) return Error(std::move(status));
    stack_rates.push_back(stack->rows_s);
    floor_rates.push_back(bare->rows_s);
    ratios.push_back(stack->rows_s / bare->rows_s);
    batch.stack_took.Merge(stack->took);
    batch.floor_took.Merge(bare->took);
    total.rows_asked += stack->stats.rows_asked;
    total.rows_unique += stack->stats.rows_unique;
    total.rows_from_cache += stack->stats.rows_from_cache;
    total.row_path_cpu_ns += stack->stats.row_path_cpu_ns;
    node_cpu += stack->node_cpu_seconds;
  }
  const auto asked = static_cast<double>(total.rows_asked);
  batch.stack_rows_s = SpreadOf(stack_rates);
  batch.floor_rows_s = SpreadOf(floor_rates);
  batch.local_rows_s = SpreadOf(local_rates);
  batch.ratio = SpreadOf(ratios);
  batch.client_cpu_us_per_row = static_cast<double>(total.row_path_cpu_ns) / 1e3 / asked;
  batch.node_cpu_us_per_row = 1e6 * node_cpu / asked;
  batch.from_cache = static_cast<double>(total.rows_from_cache) / asked;
  batch.deduped = 1 - static_cast<double>(total.rows_unique) / asked;
  batch.floor_messages = floor.messages();
  return batch;
}

nlohmann::json BatchJson(const Batch& batch) {
  return {{"rows", batch.rows},
          {"stack", ToJson(batch.stack_rows_s)},
          {"floor", ToJson(batch.floor_rows_s)},
          {"local", ToJson(batch.local_rows_s)},
          {"stack_over_floor", ToJson(batch.ratio)},
          {"p50_us", batch.stack_took.PercentileUs(0.5)},
          {"p99_us", batch.stack_took.PercentileUs(0.99)},
          {"p999_us", batch.stack_took.PercentileUs(0.999)},
          {"floor_p50_us", batch.floor_took.PercentileUs(0.5)},
          {"floor_p99_us", batch.floor_took.PercentileUs(0.99)},
          {"floor_rows_a_message", batch.floor_messages.rows_max},
          {"floor_eager", batch.floor_messages.eager},
          {"client_cpu_us_per_row", batch.client_cpu_us_per_row},
          {"node_cpu_us_per_row", batch.node_cpu_us_per_row},
          {"rows_from_cache", batch.from_cache},
          {"rows_deduped", batch.deduped},
          {"latency_bins", batch.stack_took.ToJson()},
          {"floor_latency_bins", batch.floor_took.ToJson()}};
}

Table RateTable(const std::vector<Batch>& batches) {
  Table table{.title = "Rows delivered: stack, floor and a local gather by one thread",
              .columns = {{"rows of a batch", ""},
                          {"stack", "rows/s"},
                          {"floor", "rows/s"},
                          {"local", "rows/s"},
                          {"stack/floor", ""},
                          {"least", ""},
                          {"most", ""}},
              .rows = {}};
  for (const Batch& batch : batches) {
    table.rows.push_back({batch.rows, batch.stack_rows_s.median, batch.floor_rows_s.median,
                          batch.local_rows_s.median, batch.ratio.median, batch.ratio.least,
                          batch.ratio.most});
  }
  return table;
}

Table LatencyTable(const std::vector<Batch>& batches) {
  Table table{.title = "Time of a batch",
              .columns = {{"rows of a batch", ""},
                          {"p50", "s"},
                          {"p99", "s"},
                          {"p99.9", "s"},
                          {"floor p50", "s"},
                          {"floor p99", "s"}},
              .rows = {}};
  for (const Batch& batch : batches) {
    table.rows.push_back(
        {batch.rows, 1e-6 * batch.stack_took.PercentileUs(0.5),
         1e-6 * batch.stack_took.PercentileUs(0.99), 1e-6 * batch.stack_took.PercentileUs(0.999),
         1e-6 * batch.floor_took.PercentileUs(0.5), 1e-6 * batch.floor_took.PercentileUs(0.99)});
  }
  return table;
}

Table CostTable(const std::vector<Batch>& batches) {
  Table table{.title = "What a delivered row costs, and the floor's messages",
              .columns = {{"rows of a batch", ""},
                          {"client CPU", "s/row"},
                          {"node CPU", "s/row"},
                          {"% deduped", ""},
                          {"% from cache", ""},
                          {"floor: rows of a message", ""},
                          {"sent", ""}},
              .rows = {}};
  for (const Batch& batch : batches) {
    table.rows.push_back({batch.rows, 1e-6 * batch.client_cpu_us_per_row,
                          1e-6 * batch.node_cpu_us_per_row, 100 * batch.deduped,
                          100 * batch.from_cache, batch.floor_messages.rows_max,
                          batch.floor_messages.eager ? "eagerly" : "as UCX likes"});
  }
  return table;
}

Plot RatePlot(const std::vector<Batch>& batches) {
  Series stack{.name = "stack", .points = {}, .low_high = {}};
  Series floor{.name = "floor", .points = {}, .low_high = {}};
  Series local{.name = "local gather, one thread", .points = {}, .low_high = {}};
  for (const Batch& batch : batches) {
    stack.Add(batch.rows, batch.stack_rows_s);
    floor.Add(batch.rows, batch.floor_rows_s);
    local.Add(batch.rows, batch.local_rows_s);
  }
  return {.title = "Rows delivered over the rows of a batch",
          .kind = PlotKind::kLine,
          .x = {"rows of a batch", "", Scale::kLog2, {}},
          .y = {"rows delivered", "rows/s", Scale::kLinear, {}},
          .series = {stack, floor, local},
          .limits = {}};
}

Plot LatencyPlot(const Batch& batch) {
  return {.title = "Time of a batch of " + std::to_string(batch.rows) + " rows",
          .kind = PlotKind::kCdf,
          .x = {"time of a batch", "s", Scale::kLog10, {}},
          .y = {"batches that took at most so long", "", Scale::kLinear, {}},
          .series = {batch.stack_took.Cumulative("stack"), batch.floor_took.Cumulative("floor")},
          .limits = {}};
}

Status Check(const ReadOptions& options) {
  for (const uint32_t rows : options.rows) {
    ENGRAM_RETURN_IF_ERROR(CheckBatchRows(rows, BareGather::kBatchRowsMax));
  }
  if (options.way == "one-sided") {
    return {StatusCode::kInvalidArgument,
            "--way one-sided has no floor here yet: use gather or mapped"};
  }
  if (!options.tokenizer_file.empty() && options.ids_file.empty()) {
    return {StatusCode::kInvalidArgument, "--tokenizer goes with --ids-file"};
  }
  return {};
}

Status Run(const ReadOptions& options) {
  ENGRAM_RETURN_IF_ERROR(Check(options));
  Report report("read", options.seed, "How fast are rows read from one memory node?");
  report.AddSetting("transport", options.transport);
  report.AddSetting("way", options.way);
  report.AddSetting("table_bytes", options.bytes);
  report.AddSetting("ids", options.ids_file.empty() ? "uniform" : options.ids_file);
  report.AddSetting("cache_bytes", options.cache_bytes);
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_each", options.seconds);
  report.AddSetting("io_threads", options.io_threads);
  report.AddSetting("gather_threads", options.gather_threads);
  report.AddSetting("replicas", options.replicas);

  auto subject = Prepare(options);
  if (!subject.has_value()) return subject.error();
  report.AddSetting("row_bytes", subject->layout->row_bytes());
  report.AddSetting("floor", FloorOf(options) == FloorKind::kGather ? "gather" : "mapped");
  report.AddSetting("node_huge_pages", subject->nodes[0]->huge_pages());
  ENGRAM_RETURN_IF_ERROR(ReadLoop(subject->rows.get(), subject->NodePointers(), &subject->tokens)
                             .CheckContents(options.rows.back() / kV41RowsPerToken));

  nlohmann::json points = nlohmann::json::array();
  std::vector<Batch> batches;
  for (const uint32_t rows : options.rows) {
    std::fprintf(stderr, "batches of %u rows\n", rows);
    auto batch = Measure(options, rows, *subject);
    if (!batch.has_value()) return batch.error();
    points.push_back(BatchJson(*batch));
    batches.push_back(*std::move(batch));
  }
  for (const Table& table : {RateTable(batches), LatencyTable(batches), CostTable(batches)}) {
    PrintTable(table);
    report.AddTable(table);
  }
  report.AddPlot(RatePlot(batches));
  for (const Batch& batch : batches) report.AddPlot(LatencyPlot(batch));
  report.AddResult("batches", points);
  report.AddResult("stack_rows_s", batches.back().stack_rows_s.median);
  report.AddResult("floor_rows_s", batches.back().floor_rows_s.median);
  report.AddResult("local_rows_s", batches.back().local_rows_s.median);
  report.AddResult("ratio", batches.back().ratio.median);
  report.AddResult("p50_us", batches.back().stack_took.PercentileUs(0.5));
  report.AddResult("p99_us", batches.back().stack_took.PercentileUs(0.99));
  return report.Write(options.json_file);
}

}  // namespace

void AddReadCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<ReadOptions>();
  CLI::App* sub = app.add_subcommand(
      "read",
      "How fast are rows read from one memory node? Starts a node of its own with made-up rows of\n"
      "the V4.1 shape (48 rows a token), then reads batches in a closed loop: hash, dedupe, "
      "cache,\n"
      "read, verify every row, scatter. Beside it, in turns, the floor: the same rows by a bare "
      "UCX\n"
      "loop of the same way with nothing added (or, mapped, by a bare copy), and a local gather "
      "by\n"
      "one thread. Medians of the repetitions are shown. The floor leaves no row out: with a "
      "cache\n"
      "or repeated text the stack may be above it.");
  sub->add_option("--transport", options->transport, "What rows travel over")
      ->check(CLI::IsMember({"tcp", "shm", "auto"}))
      ->capture_default_str();
  sub->add_option("--way", options->way, "How rows are read")
      ->check(CLI::IsMember({"auto", "gather", "mapped", "one-sided"}))
      ->capture_default_str();
  sub->add_option("--one-sided", options->one_sided, "Let the one-sided way be: off, shm or rdma")
      ->check(CLI::IsMember({"off", "shm", "rdma"}))
      ->capture_default_str();
  sub->add_option("--rows", options->rows, "Rows of a batch, 48 a token; one measurement each")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--row-values", options->row_values, "Values of a row: 256 make 264 bytes")
      ->check(CLI::Range(32, 8192))
      ->capture_default_str();
  sub->add_option("--bytes", options->bytes, "Bytes of the tables")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option("--seconds", options->seconds, "Time of one repetition")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  sub->add_option("--repetitions", options->repetitions, "The medians of these are shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  sub->add_option("--io-threads", options->io_threads, "Of the client")->capture_default_str();
  sub->add_option("--gather-threads", options->gather_threads, "Of the node")
      ->capture_default_str();
  sub->add_option("--replicas", options->replicas,
                  "Memory nodes with all rows: the first is near and read, hedges go to the others")
      ->check(CLI::Range(1, 3))
      ->capture_default_str();
  sub->add_option("--cache", options->cache_bytes, "Bytes of the client's row cache")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option(
         "--ids-file", options->ids_file,
         "Read these tokens' rows, in their order: one JSON list of ids (else random ones)")
      ->check(CLI::ExistingFile);
  sub->add_option(
         "--tokenizer", options->tokenizer_file,
         "The tokenizer.json of those ids: some then share their rows, as they do in a model")
      ->check(CLI::ExistingFile);
  sub->add_option("--seed", options->seed, "Of the tokens")->capture_default_str();
  sub->add_option("--json", options->json_file, "Write the report here");
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench
