// How fast rows are read from one memory node: hash, dedupe, read, verify, scatter, in a closed
// loop.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/command.h"
#include "bench/read_node.h"
#include "bench/report.h"
#include "client/fixed_shard_map.h"
#include "client/remote_rows.h"
#include "engram/transport/ucx/ucx_transport.h"

namespace engram::bench {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

struct ReadOptions {
  std::string transport = "tcp";
  std::string way = "auto";
  std::string one_sided = "off";
  std::vector<uint32_t> tokens = {1, 32, 256};
  uint64_t bytes = 2ull << 30;
  double seconds = 3;
  int repetitions = 5;
  uint32_t io_threads = 1;
  uint32_t gather_threads = 1;
  uint64_t seed = 1;
  std::string json_file;
};

struct Measured {
  double rows_s = 0;
  double p50_us = 0;
  double p99_us = 0;
  double client_cpu_us_per_row = 0;
  double node_cpu_us_per_row = 0;
};

double Seconds(SteadyTime from, SteadyTime to) {
  return std::chrono::duration<double>(to - from).count();
}

double Percentile(std::vector<double>& values, double fraction) {
  const auto at =
      static_cast<size_t>(std::llround(fraction * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

TableSpec SpecOf(uint64_t bytes) {
  TableSpec spec;
  spec.hash = {.variant = Variant::kV41,
               .max_ngram_size = 4,
               .head_count = 8,
               .base_sizes = {},
               .layer_ids = {1, 14},
               .compressed_vocab_size = 99092,
               .pad_id = 2};
  spec.row_values = 256;
  const uint64_t row_bytes = RowBytes(spec.row_format, spec.row_values);
  spec.hash.base_sizes.assign(3,
                              static_cast<int64_t>(std::max<uint64_t>(64, bytes / 48 / row_bytes)));
  return spec;
}

// Reads batches of uniform random tokens: their rows are uniform and all but distinct.
class ReadLoop {
 public:
  ReadLoop(RowSource* rows, const ReadNode* node, uint64_t seed)
      : rows_(rows), node_(node), random_(seed) {}

  Result<Measured> Run(uint32_t tokens, double seconds) {
    rows_->ResetStats();
    std::vector<TokenId> ids(tokens);
    std::vector<double> latencies_us;
    const double node_cpu = node_->CpuSeconds();
    const SteadyTime start = std::chrono::steady_clock::now();
    double elapsed = 0;
    while (elapsed < seconds) {
      for (TokenId& id : ids) id = static_cast<TokenId>(random_() % 99092);
      const SteadyTime begin = std::chrono::steady_clock::now();
      ENGRAM_TRY(ReadBatch(ids));
      const SteadyTime end = std::chrono::steady_clock::now();
      latencies_us.push_back(1e6 * Seconds(begin, end));
      elapsed = Seconds(start, end);
    }
    const RowSourceStats stats = rows_->Stats();
    if (stats.rows_wrong + stats.rows_failed > 0) {
      return Error(StatusCode::kCorrupt, "rows were wrong or failed");
    }
    const auto rows = static_cast<double>(stats.rows_read);
    Measured measured;
    measured.rows_s = rows / elapsed;
    measured.p50_us = Percentile(latencies_us, 0.5);
    measured.p99_us = Percentile(latencies_us, 0.99);
    measured.client_cpu_us_per_row = static_cast<double>(stats.row_path_cpu_ns) / 1e3 / rows;
    measured.node_cpu_us_per_row = 1e6 * (node_->CpuSeconds() - node_cpu) / rows;
    return measured;
  }

  // Every row of one batch against what the node made up.
  Status CheckContents(uint32_t tokens) {
    std::vector<TokenId> ids(tokens);
    for (TokenId& id : ids) id = static_cast<TokenId>(random_() % 99092);
    TokenRun run{.tokens = ids};
    const TableLayout& layout = rows_->layout();
    const auto columns = static_cast<uint32_t>(layout.column_count());
    std::vector<uint32_t> buckets(size_t{columns} * tokens);
    const Result<Ticket> ticket = rows_->Prefetch({&run, 1}, {});
    if (!ticket.has_value()) return ticket.error();
    Status status;
    for (int32_t layer = 0; status.ok() && layer < layout.layer_count(); ++layer) {
      rows_->hasher().Hash(layer, run, buckets.data(), tokens);
      const Result<LayerRows> got = rows_->Await(*ticket, layer);
      if (!got.has_value()) {
        status = got.error();
        break;
      }
      for (uint32_t i = 0; i < tokens * columns; ++i) {
        const uint32_t column = i % columns;
        const RowAddress address = layout.Address(layer, static_cast<int32_t>(column),
                                                  buckets[column * tokens + i / columns]);
        uint64_t word = 0;
        std::memcpy(&word, got->rows.data() + size_t{i} * layout.row_bytes(), sizeof(word));
        if (word != MadeUpWord(address, 0))
          status = Status(StatusCode::kCorrupt, "another row came");
      }
    }
    rows_->Release(*ticket);
    return status;
  }

 private:
  Status ReadBatch(const std::vector<TokenId>& ids) {
    TokenRun run{.tokens = ids};
    const Result<Ticket> ticket = rows_->Prefetch({&run, 1}, {});
    if (!ticket.has_value()) return ticket.error();
    Status status;
    for (int32_t layer = 0; status.ok() && layer < rows_->layout().layer_count(); ++layer) {
      const Result<LayerRows> got = rows_->Await(*ticket, layer);
      if (!got.has_value()) status = got.error();
    }
    rows_->Release(*ticket);
    return status;
  }

  RowSource* rows_;
  const ReadNode* node_;
  std::mt19937_64 random_;
};

Result<std::unique_ptr<RowSource>> ConnectTo(const ReadNode& node, const ReadOptions& options,
                                             const std::shared_ptr<const TableLayout>& layout) {
  std::vector<int32_t> identity_compression(99092);
  for (size_t i = 0; i < identity_compression.size(); ++i) {
    identity_compression[i] = static_cast<int32_t>(i);
  }
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher,
                          NgramHasher::Create(layout->spec().hash, identity_compression));
  ShardMap map;
  map.version = kBenchVersion;
  map.epoch = Epoch(1);
  map.nodes.push_back({"m0", "", node.address(), node.incarnation()});
  map.owners.assign(layout->slot_count(), NodeIndex(0));

  UcxTransportOptions transport_options;
  transport_options.tls = options.transport;
  transport_options.one_sided = options.one_sided;
  if (options.way == "gather") transport_options.way = ReadWay::kGather;
  if (options.way == "mapped") transport_options.way = ReadWay::kMapped;
  if (options.way == "one-sided") transport_options.way = ReadWay::kOneSided;
  ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport,
                          UcxTransport::Create(transport_options));
  RemoteRowsOptions rows_options;
  rows_options.version = kBenchVersion;
  rows_options.identity = kBenchIdentity;
  rows_options.io_threads = options.io_threads;
  rows_options.batch_tokens_max = *std::max_element(options.tokens.begin(), options.tokens.end());
  return CreateRemoteRows(rows_options, std::move(transport),
                          std::make_shared<const NgramHasher>(std::move(hasher)), layout,
                          std::make_shared<FixedShardMap>(std::move(map)));
}

Status Run(const ReadOptions& options) {
  Report report("read", options.seed);
  report.AddSetting("transport", options.transport);
  report.AddSetting("way", options.way);
  report.AddSetting("table_bytes", options.bytes);
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_each", options.seconds);
  report.AddSetting("io_threads", options.io_threads);
  report.AddSetting("gather_threads", options.gather_threads);

  auto layout_made = TableLayout::Create(SpecOf(options.bytes));
  if (!layout_made.has_value()) return layout_made.error();
  const auto layout = std::make_shared<const TableLayout>(*std::move(layout_made));
  std::fprintf(stderr, "making %.2f GiB of rows in a memory node of its own\n",
               static_cast<double>(layout->total_bytes()) / (1 << 30));
  const auto node =
      ReadNode::Start({options.transport, options.one_sided, options.gather_threads}, layout);
  if (!node.has_value()) return node.error();
  const auto rows = ConnectTo(**node, options, layout);
  if (!rows.has_value()) return rows.error();
  ReadLoop loop(rows->get(), node->get(), options.seed);
  ENGRAM_RETURN_IF_ERROR(loop.CheckContents(options.tokens.back()));

  std::printf("%8s %10s %14s %10s %10s %16s %14s\n", "tokens", "rows", "M rows/s", "p50 us",
              "p99 us", "client CPU ns/row", "node CPU ns/row");
  nlohmann::json points = nlohmann::json::array();
  for (const uint32_t tokens : options.tokens) {
    std::vector<Measured> runs;
    const auto warm = loop.Run(tokens, options.seconds / 4);
    if (!warm.has_value()) return warm.error();
    for (int i = 0; i < options.repetitions; ++i) {
      const auto run = loop.Run(tokens, options.seconds);
      if (!run.has_value()) return run.error();
      runs.push_back(*run);
    }
    std::sort(runs.begin(), runs.end(),
              [](const Measured& a, const Measured& b) { return a.rows_s < b.rows_s; });
    const Measured& median = runs[runs.size() / 2];
    std::printf("%8u %10u %14.3f %10.1f %10.1f %16.1f %14.1f\n", tokens, tokens * 48,
                median.rows_s / 1e6, median.p50_us, median.p99_us,
                1e3 * median.client_cpu_us_per_row, 1e3 * median.node_cpu_us_per_row);
    points.push_back({{"tokens", tokens},
                      {"rows", tokens * 48},
                      {"stack_rows_s", median.rows_s},
                      {"stack_rows_s_min", runs.front().rows_s},
                      {"stack_rows_s_max", runs.back().rows_s},
                      {"p50_us", median.p50_us},
                      {"p99_us", median.p99_us},
                      {"client_cpu_us_per_row", median.client_cpu_us_per_row},
                      {"node_cpu_us_per_row", median.node_cpu_us_per_row}});
  }
  report.AddResult("batches", points);
  return report.Write(options.json_file);
}

}  // namespace

void AddReadCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<ReadOptions>();
  CLI::App* sub = app.add_subcommand(
      "read",
      "How fast are rows read from one memory node? Starts a node of its own with made-up rows of\n"
      "the V4.1 shape (48 rows a token), then reads batches of random tokens in a closed loop:\n"
      "hash, dedupe, read, verify every row, scatter. No cache. The median repetition is shown.");
  sub->add_option("--transport", options->transport, "What rows travel over")
      ->check(CLI::IsMember({"tcp", "shm", "auto"}))
      ->capture_default_str();
  sub->add_option("--way", options->way, "How rows are read")
      ->check(CLI::IsMember({"auto", "gather", "mapped", "one-sided"}))
      ->capture_default_str();
  sub->add_option("--one-sided", options->one_sided, "Let the one-sided way be: off, shm or rdma")
      ->check(CLI::IsMember({"off", "shm", "rdma"}))
      ->capture_default_str();
  sub->add_option("--tokens", options->tokens, "Tokens of a batch, one measurement each")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--bytes", options->bytes, "Bytes of the tables")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option("--seconds", options->seconds, "Time of one repetition")->capture_default_str();
  sub->add_option("--repetitions", options->repetitions, "The median of these is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  sub->add_option("--io-threads", options->io_threads, "Of the client")->capture_default_str();
  sub->add_option("--gather-threads", options->gather_threads, "Of the node")
      ->capture_default_str();
  sub->add_option("--seed", options->seed, "Of the tokens")->capture_default_str();
  sub->add_option("--json", options->json_file, "Write the report here");
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench
