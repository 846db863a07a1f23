// Will the read of the next rows hide behind a model's layers?
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/prctl.h>

#include "bench/command.h"
#include "bench/decode_steps.h"
#include "bench/read_loop.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/step_profile.h"
#include "bench/table_text.h"
#include "bench/v41_shape.h"

namespace engram::bench {
namespace {

struct PrefetchOptions {
  std::string profile = "v41-like";
  std::vector<uint32_t> decode = {1, 8, 64, 256};
  std::vector<uint32_t> prefill = {512, 4096};
  uint32_t ahead = 0;
  uint32_t drafts = 0;
  double accepted = 0.7;
  double cancelled = 0;
  std::string transport = "tcp";
  std::string way = "auto";
  uint32_t nodes = 2;
  uint32_t io_threads = 1;
  uint64_t cache_bytes = 0;
  uint64_t bytes = 1ull << 30;
  TokenOptions tokens;
  NetworkOptions network;  // of own nodes
  ClusterOptions cluster;
  double seconds = 5;
  std::string json_file;
};

void SleepUntil(MonotonicTime until) {
  const auto since_epoch =
      std::chrono::duration_cast<std::chrono::nanoseconds>(until.time_since_epoch());
  timespec at{};
  at.tv_sec = static_cast<time_t>(since_epoch.count() / 1'000'000'000);
  at.tv_nsec = static_cast<long>(since_epoch.count() % 1'000'000'000);
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
  }
}

// One phase at one batch size.
struct Outcome {
  std::string phase;
  uint32_t tokens = 0;
  uint64_t steps = 0;
  uint64_t cancelled = 0;
  double step_us = 0;  // mean, stalls included
  double stall_percent = 0;
  double wasted_percent = 0;  // of the rows asked: of rejected tokens and cancelled batches
  struct Layer {
    int32_t layer = 0;
    LatencyHistogram took;
    LatencyHistogram waited;  // of a step, for all its rows
    double window_p50_us = 0;
    double hidden = 0;
    double stall_percent = 0;
  };
  std::vector<Layer> layers;
};

// Goes through the layers of a model at the profile's pace, as a worker whose GPU computes: nothing
// but the reads uses this machine's cores.
class SimulatedModel {
 public:
  SimulatedModel(const StepProfile* profile, RowSource* rows) : profile_(profile), rows_(rows) {}

  ~SimulatedModel() {
    if (ahead_ != Ticket()) rows_->Release(ahead_);
  }

  // Returns when the last layer would be done. A cancelled step reads its rows for nothing.
  //   ahead   tokens of the next step, whose rows are asked for meanwhile; may be none
  //   tokens  of this step, with those that the last one asked for ahead
  Status Step(std::span<const TokenRun> runs, const TokenRun& ahead, uint32_t tokens, bool cancel) {
    const Duration layer_time = profile_->LayerTime(tokens);
    const Result<Ticket> ticket = rows_->Prefetch(runs, {});
    if (!ticket.has_value()) return ticket.error();
    if (cancel) {
      rows_->Release(*ticket);
      return {};
    }
    const Ticket asked_before = std::exchange(ahead_, Ticket());
    if (!ahead.tokens.empty()) {
      const Result<Ticket> next = rows_->Prefetch({&ahead, 1}, {});
      if (!next.has_value()) return next.error();
      ahead_ = *next;
    }
    MonotonicTime at = std::chrono::steady_clock::now();
    Status status;
    int32_t table_layer = 0;
    for (int32_t layer = 0; status.ok() && layer < profile_->layers(); ++layer) {
      const auto& consuming = profile_->engram_layers();
      if (table_layer < std::ssize(consuming) &&
          consuming[static_cast<size_t>(table_layer)] == layer) {
        SleepUntil(at);
        const MonotonicTime began = std::chrono::steady_clock::now();
        for (const Ticket rows : {asked_before, *ticket}) {
          if (rows == Ticket()) continue;
          const Result<LayerRows> got = rows_->Await(rows, table_layer);
          if (!got.has_value()) status = got.error();
        }
        // A layer that waited for its rows starts late, and all after it.
        const MonotonicTime now = std::chrono::steady_clock::now();
        waited_[static_cast<size_t>(table_layer++)].Add(now - began);
        at = std::max(at, now);
      }
      at += layer_time;
    }
    SleepUntil(at);
    rows_->Release(*ticket);
    if (asked_before != Ticket()) rows_->Release(asked_before);
    SleepUntil(at + profile_->between_steps());
    return status;
  }

  void ForgetWaits() { waited_.assign(waited_.size(), {}); }
  [[nodiscard]] const LatencyHistogram& waited(size_t table_layer) const {
    return waited_[table_layer];
  }

 private:
  const StepProfile* profile_;
  RowSource* rows_;
  Ticket ahead_;
  std::vector<LatencyHistogram> waited_{profile_->engram_layers().size()};
};

struct Phase {
  std::string name;
  uint32_t tokens = 0;  // of a step
};

Result<Outcome> Measure(const PrefetchOptions& options, const StepProfile& profile,
                        const Phase& phase, TokenSource* tokens, RowSource* rows) {
  const bool decodes = phase.name == "decode";
  DecodeSteps steps({.sequences = decodes ? phase.tokens : 1,
                     .drafts = decodes ? options.drafts : 0,
                     .accepted = options.accepted,
                     .seed = options.tokens.seed},
                    tokens);
  const uint32_t step_tokens = decodes ? steps.tokens_per_step() : phase.tokens;
  SimulatedModel model(&profile, rows);
  std::mt19937_64 random(options.tokens.seed);
  std::bernoulli_distribution cancels(options.cancelled);
  std::vector<TokenId> ahead;
  const auto step = [&](bool cancel) {
    if (!decodes) {
      const TokenRun run = tokens->Next(step_tokens);
      return model.Step({&run, 1}, {}, step_tokens, cancel);
    }
    if (options.ahead != 0) {
      const TokenRun next = tokens->Next(options.ahead);
      ahead.assign(next.tokens.begin(), next.tokens.end());
    }
    return model.Step(steps.Next(), {.tokens = ahead}, step_tokens + options.ahead, cancel);
  };
  for (int i = 0; i < 3; ++i) {  // warm
    if (Status status = step(false); !status.ok()) return Error(std::move(status));
  }
  rows->ResetStats();
  model.ForgetWaits();
  const uint64_t rejected_before = steps.rejected();
  Outcome outcome;
  outcome.phase = phase.name;
  outcome.tokens = phase.tokens;
  const MonotonicTime start = std::chrono::steady_clock::now();
  double elapsed = 0;
  while (elapsed < options.seconds || outcome.steps < 20) {
    const bool cancel = cancels(random);
    if (Status status = step(cancel); !status.ok()) return Error(std::move(status));
    ++(cancel ? outcome.cancelled : outcome.steps);
    elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  const RowSourceStats stats = rows->Stats();
  if (stats.rows_wrong + stats.rows_failed > 0) {
    return Error(StatusCode::kCorrupt, "rows were wrong or failed");
  }
  const double wasted_tokens = static_cast<double>(steps.rejected() - rejected_before) +
                               static_cast<double>(outcome.cancelled) * step_tokens;
  outcome.wasted_percent = 100 * wasted_tokens * rows->layout().column_count() *
                           rows->layout().layer_count() / static_cast<double>(stats.rows_asked);
  outcome.step_us = 1e6 * elapsed / static_cast<double>(outcome.steps);
  for (size_t i = 0; i < stats.layers.size(); ++i) {
    const RowSourceStats::Layer& layer = stats.layers[i];
    Outcome::Layer& out = outcome.layers.emplace_back();
    out.layer = profile.engram_layers()[i];
    for (const double us : layer.prefetch_us) {
      out.took.Add(
          std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::micro>(us)));
    }
    out.waited = model.waited(i);
    if (!layer.window_us.empty()) out.window_p50_us = SpreadOf(layer.window_us).median;
    out.hidden = layer.batches == 0 ? 0
                                    : static_cast<double>(layer.batches_in_time) /
                                          static_cast<double>(layer.batches);
    out.stall_percent = 1e-9 * static_cast<double>(layer.stall_ns) / elapsed * 100;
    outcome.stall_percent += out.stall_percent;
  }
  return outcome;
}

nlohmann::json OutcomeJson(const Outcome& outcome) {
  nlohmann::json json = {{"phase", outcome.phase},
                         {"tokens", outcome.tokens},
                         {"steps", outcome.steps},
                         {"steps_cancelled", outcome.cancelled},
                         {"step_us", outcome.step_us},
                         {"stall_percent", outcome.stall_percent},
                         {"rows_wasted_percent", outcome.wasted_percent}};
  for (const Outcome::Layer& layer : outcome.layers) {
    json["layers"][std::to_string(layer.layer)] = {
        {"p50_us", layer.took.PercentileUs(0.5)},
        {"p99_us", layer.took.PercentileUs(0.99)},
        {"p999_us", layer.took.PercentileUs(0.999)},
        {"window_p50_us", layer.window_p50_us},
        {"hidden_fraction", layer.hidden},
        {"stall_percent", layer.stall_percent},
        {"waited_p50_us", layer.waited.PercentileUs(0.5)},
        {"waited_p99_us", layer.waited.PercentileUs(0.99)},
        {"latency_bins", layer.took.ToJson()}};
  }
  return json;
}

Table LayerTable(const std::vector<Outcome>& outcomes) {
  Table table{.title = "Reads, windows and stalls of each Engram layer",
              .columns = {{"phase", ""},
                          {"tokens", ""},
                          {"layer", ""},
                          {"read p50", "s"},
                          {"read p99", "s"},
                          {"read p99.9", "s"},
                          {"window p50", "s"},
                          {"waited p50", "s"},
                          {"waited p99", "s"},
                          {"% hidden", ""},
                          {"% stalled", ""},
                          {"% of rows wasted", ""}},
              .rows = {}};
  for (const Outcome& outcome : outcomes) {
    for (const Outcome::Layer& layer : outcome.layers) {
      table.rows.push_back(
          {outcome.phase, outcome.tokens, layer.layer, 1e-6 * layer.took.PercentileUs(0.5),
           1e-6 * layer.took.PercentileUs(0.99), 1e-6 * layer.took.PercentileUs(0.999),
           1e-6 * layer.window_p50_us, 1e-6 * layer.waited.PercentileUs(0.5),
           1e-6 * layer.waited.PercentileUs(0.99), 100 * layer.hidden, layer.stall_percent,
           outcome.wasted_percent});
    }
  }
  return table;
}

// One plot of each phase: what it takes against what there is.
Plot WindowPlot(const std::vector<Outcome>& outcomes, const std::string& phase, size_t layer_at) {
  const std::string layer = std::to_string(outcomes.front().layers[layer_at].layer);
  Series p50{.name = "read p50", .points = {}, .low_high = {}};
  Series p99{.name = "read p99", .points = {}, .low_high = {}};
  Series window{.name = "window p50", .points = {}, .low_high = {}};
  for (const Outcome& outcome : outcomes) {
    if (outcome.phase != phase) continue;
    const Outcome::Layer& at = outcome.layers[layer_at];
    p50.Add(outcome.tokens, 1e-6 * at.took.PercentileUs(0.5));
    p99.Add(outcome.tokens, 1e-6 * at.took.PercentileUs(0.99));
    window.Add(outcome.tokens, 1e-6 * at.window_p50_us);
  }
  return {.title = "Layer " + layer + ", " + phase + ": is the read below the window?",
          .kind = PlotKind::kLine,
          .x = {"tokens of a step", "", Scale::kLog2, {}},
          .y = {"time", "s", Scale::kLog10, {}},
          .series = {p50, p99, window},
          .limits = {}};
}

// Where rows come from, made once.
struct Subject {
  TokenSource tokens;
  std::shared_ptr<const TableLayout> layout;
  std::unique_ptr<HostNetwork> network;          // null: all on this host
  std::vector<std::unique_ptr<ReadNode>> nodes;  // none: a cluster's
  std::unique_ptr<RowSource> rows;
};

ReaderOptions ReaderOf(const PrefetchOptions& options, uint32_t tokens_max) {
  ReaderOptions reader;
  reader.transport = options.transport;
  reader.way = options.way;
  reader.io_threads = options.io_threads;
  reader.cache_bytes = options.cache_bytes;
  reader.batch_tokens_max = tokens_max;
  reader.zone = options.cluster.zone;
  return reader;
}

Result<Subject> PrepareOwn(const PrefetchOptions& options, uint32_t tokens_max) {
  ENGRAM_ASSIGN_OR_RETURN(TokensOfModel made_tokens, MakeTokens(options.tokens, 0, tokens_max));
  auto& [tokens, compression] = made_tokens;
  const int64_t ids = *std::max_element(compression.begin(), compression.end()) + 1;
  ENGRAM_ASSIGN_OR_RETURN(TableLayout made,
                          TableLayout::Create(V41Spec(options.bytes, ids, kV41RowValues)));
  Subject subject{.tokens = std::move(tokens),
                  .layout = std::make_shared<const TableLayout>(std::move(made)),
                  .network = nullptr,
                  .nodes = {},
                  .rows = nullptr};
  std::fprintf(stderr, "making %.2f GiB of rows in %u memory nodes\n",
               static_cast<double>(subject.layout->total_bytes()) / (1 << 30), options.nodes);
  if (options.network.any()) {
    ENGRAM_ASSIGN_OR_RETURN(subject.network,
                            HostNetwork::Create(options.network, 1 + options.nodes));
  }
  std::vector<NodeContact> contacts;
  for (uint32_t i = 0; i < options.nodes; ++i) {
    ReadNode::Options node;
    node.transport = options.transport;
    node.part = i;
    node.parts = options.nodes;
    node.network = subject.network.get();
    node.host = 1 + i;
    ENGRAM_ASSIGN_OR_RETURN(std::unique_ptr<ReadNode> started,
                            ReadNode::Start(node, subject.layout));
    subject.nodes.push_back(std::move(started));
    contacts.push_back(subject.nodes.back()->contact());
  }
  ENGRAM_ASSIGN_OR_RETURN(subject.rows, ConnectTo(contacts, ReaderOf(options, tokens_max),
                                                  subject.layout, compression));
  ENGRAM_TRY(ReadLoop(subject.rows.get(), contacts, &subject.tokens)
                 .CheckContents(std::min(tokens_max, 64u)));
  return subject;
}

Result<Subject> PrepareCluster(const PrefetchOptions& options, uint32_t tokens_max) {
  ReaderOptions reader = ReaderOf(options, tokens_max);
  ENGRAM_ASSIGN_OR_RETURN(reader.security, OpenSecurity(options.cluster.security));
  ENGRAM_ASSIGN_OR_RETURN(const auto directory, FindCluster(options.cluster.coordinators, reader));
  ENGRAM_ASSIGN_OR_RETURN(
      TokensOfModel made,
      MakeTokens(options.tokens,
                 static_cast<int32_t>(directory->layout()->spec().hash.compressed_vocab_size),
                 tokens_max));
  Subject subject{.tokens = std::move(made.tokens),
                  .layout = directory->layout(),
                  .network = nullptr,
                  .nodes = {},
                  .rows = nullptr};
  ENGRAM_ASSIGN_OR_RETURN(subject.rows, ConnectToCluster(directory, reader, made.compression));
  return subject;
}

Status CheckLayers(const StepProfile& profile, int32_t table_layers) {
  if (std::ssize(profile.engram_layers()) == table_layers) return {};
  return {StatusCode::kInvalidArgument,
          "the tables have " + std::to_string(table_layers) + " layers, the profile " +
              profile.name() + " consumes " + std::to_string(profile.engram_layers().size())};
}

Status Run(const PrefetchOptions& options) {
  const auto profile = StepProfile::Find(options.profile);
  if (!profile.has_value()) return profile.error();
  std::vector<Phase> phases;
  uint32_t tokens_max = 0;
  for (const uint32_t tokens : options.decode) {
    phases.push_back({"decode", tokens});
    tokens_max = std::max({tokens_max, tokens * (1 + options.drafts), options.ahead});
  }
  for (const uint32_t tokens : options.prefill) {
    phases.push_back({"prefill", tokens});
    tokens_max = std::max(tokens_max, tokens);
  }
  const bool own = options.cluster.coordinators.empty();
  Report report("prefetch", options.tokens.seed,
                "Will the read of the next rows hide behind the model's layers?");
  report.AddSetting("profile", profile->name());
  report.AddSetting("profile_source", profile->source());
  report.AddSetting("transport", options.transport);
  report.AddSetting("way", options.way);
  report.AddSetting("io_threads", options.io_threads);
  report.AddSetting("cache_bytes", options.cache_bytes);
  report.AddSetting("ids", options.tokens.ids_file.empty() ? "uniform" : options.tokens.ids_file);
  report.AddSetting("ahead", options.ahead);
  report.AddSetting("drafts", options.drafts);
  report.AddSetting("accepted", options.accepted);
  report.AddSetting("cancelled", options.cancelled);
  if (own) ENGRAM_RETURN_IF_ERROR(CheckLayers(*profile, kV41Layers));
  ENGRAM_RETURN_IF_ERROR(CheckNetwork(options.network, options.transport));
  auto subject = own ? PrepareOwn(options, tokens_max) : PrepareCluster(options, tokens_max);
  if (!subject.has_value()) return subject.error();
  ENGRAM_RETURN_IF_ERROR(CheckLayers(*profile, subject->layout->layer_count()));
  if (own) {
    report.AddSetting("nodes", options.nodes);
    AddNetworkSettings(options.network, &report);
  } else {
    report.AddSetting("coordinator", options.cluster.coordinators.front());
  }
  report.AddSetting("table_bytes", subject->layout->total_bytes());

  // The kernel lets timers of this thread be late by so much; by default 50 us.
  ::prctl(PR_SET_TIMERSLACK, 1'000);
  std::printf("%s: %s\n", profile->name().c_str(), profile->source().c_str());
  nlohmann::json points = nlohmann::json::array();
  std::vector<Outcome> outcomes;
  for (const Phase& phase : phases) {
    std::fprintf(stderr, "%s of %u\n", phase.name.c_str(), phase.tokens);
    auto outcome = Measure(options, *profile, phase, &subject->tokens, subject->rows.get());
    if (!outcome.has_value()) return outcome.error();
    points.push_back(OutcomeJson(*outcome));
    outcomes.push_back(*std::move(outcome));
  }
  const Table table = LayerTable(outcomes);
  PrintTable(table);
  report.AddTable(table);
  for (size_t layer = 0; layer < profile->engram_layers().size(); ++layer) {
    if (!options.decode.empty()) report.AddPlot(WindowPlot(outcomes, "decode", layer));
    if (!options.prefill.empty()) report.AddPlot(WindowPlot(outcomes, "prefill", layer));
  }
  report.AddResult("batches", points);
  return report.Write(options.json_file);
}

}  // namespace

void AddPrefetchCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<PrefetchOptions>();
  CLI::App* sub = app.add_subcommand(
      "prefetch",
      "Will the read of the next rows hide behind a model's layers? Goes through the layers at "
      "the\n"
      "pace of a profile, as a worker whose GPU computes, and reads every step's rows ahead: per\n"
      "Engram layer the time from tokens known to rows ready, the window before the layer needs\n"
      "them, how often they were there in time, and the stall that is left, in per cent of the\n"
      "time. Example: engram-bench prefetch --profile my_model.json --ids-file stream.json");
  sub->add_option("--profile", options->profile,
                  "v41-like, dense-4b, dense-8b, or a file (docs/formats/step_profile.md)")
      ->capture_default_str();
  sub->add_option("--decode", options->decode, "Sequences of a decode step; one measurement each")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  sub->add_option("--prefill", options->prefill, "Tokens of a prefill step; one measurement each")
      ->delimiter(',')
      ->check(CLI::Range(1, 16384))
      ->capture_default_str();
  sub->add_flag_callback(
      "--no-prefill", [options] { options->prefill.clear(); }, "Measure decode steps alone");
  sub->add_option(
         "--ahead", options->ahead,
         "Tokens of the next step's prefill whose rows each decode step asks for too, as a "
         "worker with continuous batching does. Reads and windows are then of both kinds; "
         "'waited' is a step's time for all its rows")
      ->check(CLI::Range(0, 16384))
      ->capture_default_str();
  sub->add_option("--drafts", options->drafts, "Speculative tokens of a sequence in a decode step")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  sub->add_option("--accepted", options->accepted,
                  "Chance of a draft to be right, if those before it are")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  sub->add_option("--cancelled", options->cancelled, "Share of the steps that are cancelled")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  sub->add_option("--transport", options->transport, "What rows travel over")
      ->check(CLI::IsMember({"tcp", "shm", "auto"}))
      ->capture_default_str();
  sub->add_option("--way", options->way, "How rows are read")
      ->check(CLI::IsMember({"auto", "gather", "mapped"}))
      ->capture_default_str();
  CLI::Option* const cluster = AddClusterOptions(*sub, options->cluster);
  AddNetworkOptions(*sub, options->network, cluster);
  sub->add_option("--nodes", options->nodes, "Memory nodes, each a process")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->excludes(cluster);
  sub->add_option("--io-threads", options->io_threads, "Of the client")->capture_default_str();
  sub->add_option("--cache", options->cache_bytes, "Bytes of the client's row cache")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option("--bytes", options->bytes, "Bytes of the tables")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str()
      ->excludes(cluster);
  sub->add_option("--ids-file", options->tokens.ids_file,
                  "Real tokens: one JSON list of ids (else random)")
      ->check(CLI::ExistingFile);
  sub->add_option(
         "--tokenizer", options->tokens.tokenizer_file,
         "The tokenizer.json of those ids: some then share their rows, as they do in a model")
      ->check(CLI::ExistingFile);
  sub->add_option("--seconds", options->seconds, "Time of one measurement")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  sub->add_option("--seed", options->tokens.seed, "Of tokens, drafts and cancellations")
      ->capture_default_str();
  sub->add_option("--json", options->json_file, "Write the report here");
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench
