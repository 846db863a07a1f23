// What happens to readers when others push: greedy ones, more than the node can answer, a thousand.
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/command.h"
#include "bench/load_process.h"
#include "bench/read_loop.h"
#include "bench/read_node.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/table_text.h"
#include "bench/token_source.h"
#include "bench/v41_shape.h"
#include "engram/base/descriptor_limit.h"
#include "engram/security/session_token.h"

namespace engram::bench {
namespace {

struct PressureOptions {
  uint64_t bytes = 512ull << 20;
  uint32_t greedy = 2;
  uint32_t greedy_rows = 1024;
  uint32_t greedy_window = 12;  // of a prefill of 256 tokens: 12,288 rows
  uint32_t step_us = 2000;
  double overload = 4;
  uint32_t crowd = 1000;
  double seconds = 3;
  int repetitions = 3;
  uint64_t seed = 1;
  std::string json_file;
};

constexpr uint32_t kFloodClients = 32;
constexpr uint32_t kCrowdProcesses = 4;
constexpr uint32_t kSessionsMax = 4096;  // of a node, unless it is told otherwise
// Others run where the decode reader runs, and let it go first: as if on hosts of theirs.
constexpr int kLoadNice = 15;

// How a decode reader fared: batches of one token, a pause between them.
struct Decoded {
  LatencyHistogram took;
  std::vector<double> p99_us;  // of each repetition
  [[nodiscard]] double p99() const { return SpreadOf(p99_us).median; }
};

class PressureRun {
 public:
  explicit PressureRun(const PressureOptions& options) : options_(options) {}

  // Everything that forks, then what has threads.
  Status Prepare();
  // Beside greedy readers, by the fair queue and in the order that reads come.
  Status MeasureFairness(Report* report);
  Status MeasureOverload(Report* report);
  Status MeasureCrowd(Report* report);

 private:
  struct Node {
    std::unique_ptr<ReadNode> process;
    std::unique_ptr<RowSource> decode;
    Decoded alone;
    Decoded beside;
  };
  Status Decode(RowSource* rows, Decoded* decoded);
  // What the load processes together do while `during` runs.
  template <typename During>
  Result<std::vector<LoadOutcome>> Load(const std::vector<LoadProcess*>& processes,
                                        const LoadPlan& plan, During during);

  const PressureOptions& options_;
  std::shared_ptr<const TableLayout> layout_;
  Node fair_;
  Node in_order_;
  std::vector<std::unique_ptr<LoadProcess>> greedy_;
  std::unique_ptr<LoadProcess> flood_;
  std::vector<std::unique_ptr<LoadProcess>> crowd_;
  std::unique_ptr<TokenSource> tokens_;
};

Status PressureRun::Prepare() {
  (void)RaiseDescriptorLimit();  // each session has several on both sides
  auto made = TableLayout::Create(V41Spec(options_.bytes, kV41CompressedIds, kV41RowValues));
  if (!made.has_value()) return made.error();
  layout_ = std::make_shared<const TableLayout>(*std::move(made));
  std::fprintf(stderr, "making %.2f GiB of rows in each of two memory nodes\n",
               static_cast<double>(layout_->total_bytes()) / (1 << 30));
  for (Node* const node : {&fair_, &in_order_}) {
    ReadNode::Options options;
    options.fair_reads = node == &fair_;
    options.pinned = true;
    auto started = ReadNode::Start(options, layout_);
    if (!started.has_value()) return started.error();
    node->process = *std::move(started);
  }
  const auto fork_one = [this](int nice) { return LoadProcess::Fork(layout_, nice); };
  for (uint32_t i = 0; i < options_.greedy + 1 + kCrowdProcesses; ++i) {
    auto forked = fork_one(i == options_.greedy ? 0 : kLoadNice);
    if (!forked.has_value()) return forked.error();
    if (i < options_.greedy) {
      greedy_.push_back(*std::move(forked));
    } else if (flood_ == nullptr) {
      flood_ = *std::move(forked);
    } else {
      crowd_.push_back(*std::move(forked));
    }
  }
  ShareProcessors(/*node=*/false);
  tokens_ = std::make_unique<TokenSource>(TokenSource::Random(kV41CompressedIds, options_.seed));
  for (Node* const node : {&fair_, &in_order_}) {
    ReaderOptions reader;
    reader.batch_tokens_max = 1;
    auto connected = ConnectTo({node->process->contact()}, reader, layout_,
                               IdentityCompression(kV41CompressedIds));
    if (!connected.has_value()) return connected.error();
    node->decode = *std::move(connected);
    ReadLoop loop(node->decode.get(), {}, tokens_.get());
    ENGRAM_RETURN_IF_ERROR(loop.CheckContents(1));
  }
  return {};
}

Status PressureRun::Decode(RowSource* rows, Decoded* decoded) {
  LatencyHistogram took;
  const MonotonicTime end =
      std::chrono::steady_clock::now() +
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(options_.seconds));
  while (std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(options_.step_us));
    const TokenRun run = tokens_->Next(1);
    const MonotonicTime begin = std::chrono::steady_clock::now();
    const Result<Ticket> ticket = rows->Prefetch({&run, 1}, {});
    if (!ticket.has_value()) return ticket.error();
    Status status;
    for (int32_t layer = 0; status.ok() && layer < rows->layout().layer_count(); ++layer) {
      const Result<LayerRows> got = rows->Await(*ticket, layer);
      if (!got.has_value()) status = got.error();
    }
    took.Add(std::chrono::steady_clock::now() - begin);
    rows->Release(*ticket);
    ENGRAM_RETURN_IF_ERROR(status);
  }
  decoded->took.Merge(took);
  decoded->p99_us.push_back(took.PercentileUs(0.99));
  return {};
}

template <typename During>
Result<std::vector<LoadOutcome>> PressureRun::Load(const std::vector<LoadProcess*>& processes,
                                                   const LoadPlan& plan, During during) {
  for (LoadProcess* const process : processes) ENGRAM_TRY(process->Start(plan));
  const Status status = during();
  std::vector<LoadOutcome> outcomes;
  for (LoadProcess* const process : processes) {
    ENGRAM_ASSIGN_OR_RETURN(LoadOutcome outcome, process->Await());
    outcomes.push_back(std::move(outcome));
  }
  if (!status.ok()) return Error(status);
  return outcomes;
}

Status PressureRun::MeasureFairness(Report* report) {
  std::vector<LoadProcess*> greedy;
  for (const auto& process : greedy_) greedy.push_back(process.get());
  LoadPlan plan;
  plan.seconds = options_.seconds + 0.4;
  plan.rows = options_.greedy_rows;
  plan.window = options_.greedy_window;
  std::vector<double> greedy_rows_s[2];
  for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
    std::fprintf(stderr, "greedy readers, repetition %d of %d\n", repetition + 1,
                 options_.repetitions);
    for (Node* const node : {&fair_, &in_order_}) {
      ENGRAM_RETURN_IF_ERROR(Decode(node->decode.get(), &node->alone));
      for (LoadProcess* const process : greedy) {
        ENGRAM_RETURN_IF_ERROR(process->Connect(node->process->contact(), 1));
      }
      const auto outcomes = Load(greedy, plan, [&]() -> Status {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        return Decode(node->decode.get(), &node->beside);
      });
      if (!outcomes.has_value()) return outcomes.error();
      double rows_s = 0;
      for (const LoadOutcome& outcome : *outcomes) rows_s += outcome.rows_s();
      greedy_rows_s[node == &fair_ ? 0 : 1].push_back(rows_s);
      for (LoadProcess* const process : greedy) {
        ENGRAM_RETURN_IF_ERROR(process->Connect(node->process->contact(), 0));
      }
    }
  }
  Table table{.title = "A decode reader (48 rows every " + std::to_string(options_.step_us) +
                       " us) beside " + std::to_string(options_.greedy) +
                       " greedy readers of one node",
              .columns = {{"reads are answered", ""},
                          {"alone p50", "s"},
                          {"alone p99", "s"},
                          {"beside p50", "s"},
                          {"beside p99", "s"},
                          {"p99 beside / alone", ""},
                          {"greedy readers", "rows/s"}},
              .rows = {}};
  std::vector<Series> curves;
  for (const Node* const node : {&fair_, &in_order_}) {
    const bool fair = node == &fair_;
    table.rows.push_back({fair ? "by turns (ours)" : "as they come",
                          1e-6 * node->alone.took.PercentileUs(0.5), 1e-6 * node->alone.p99(),
                          1e-6 * node->beside.took.PercentileUs(0.5), 1e-6 * node->beside.p99(),
                          node->beside.p99() / node->alone.p99(),
                          SpreadOf(greedy_rows_s[fair ? 0 : 1]).median});
    curves.push_back(node->beside.took.Cumulative(fair ? "by turns" : "as they come"));
    if (fair) curves.push_back(node->alone.took.Cumulative("alone"));
  }
  PrintTable(table);
  report->AddTable(table);
  report->AddPlot({.title = "A decode reader beside greedy ones",
                   .kind = PlotKind::kCdf,
                   .x = {"time of a batch of 48 rows", "s", Scale::kLog10, {}},
                   .y = {"batches that took at most so long", ""},
                   .series = curves});
  report->AddResult("fair_p99_ratio", fair_.beside.p99() / fair_.alone.p99());
  report->AddResult("in_order_p99_ratio", in_order_.beside.p99() / in_order_.alone.p99());
  return {};
}

Status PressureRun::MeasureOverload(Report* report) {
  ENGRAM_RETURN_IF_ERROR(flood_->Connect(fair_.process->contact(), kFloodClients));
  const auto nothing = []() -> Status { return {}; };
  struct Flood {
    const char* clients;
    bool backs_off;
    std::vector<double> offered, answered, refused, node_busy;
    uint64_t silent = 0;
    uint64_t unsent = 0;
  };
  Flood floods[] = {{"that wait as they are told", true, {}, {}, {}, {}},
                    {"that never wait", false, {}, {}, {}, {}}};
  std::vector<double> peaks;
  for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
    std::fprintf(stderr, "overload, repetition %d of %d\n", repetition + 1, options_.repetitions);
    LoadPlan plan;
    plan.seconds = options_.seconds;
    plan.pause = std::chrono::microseconds(0);
    // The most that it answers: few or many reads waiting.
    double peak = 0;
    for (const uint32_t window : {1u, 4u, 16u}) {
      plan.window = window;
      const auto outcome = Load({flood_.get()}, plan, nothing);
      if (!outcome.has_value()) return outcome.error();
      peak = std::max(peak, outcome->front().rows_s());
    }
    peaks.push_back(peak);
    plan.reads_s = options_.overload * peak / plan.rows;
    plan.wanted_within = std::chrono::milliseconds(500);
    for (Flood& flood : floods) {
      plan.backs_off = flood.backs_off;
      const double cpu = fair_.process->contact().CpuSeconds();
      const auto outcomes = Load({flood_.get()}, plan, nothing);
      if (!outcomes.has_value()) return outcomes.error();
      const LoadOutcome& outcome = outcomes->front();
      const auto sent = static_cast<double>(outcome.reads + outcome.refused + outcome.expired);
      flood.offered.push_back((sent + static_cast<double>(outcome.held)) * plan.rows /
                              outcome.seconds);
      flood.answered.push_back(outcome.rows_s());
      flood.node_busy.push_back((fair_.process->contact().CpuSeconds() - cpu) / outcome.seconds);
      flood.refused.push_back(static_cast<double>(outcome.refused + outcome.expired) / sent);
      flood.silent += outcome.silent;
      flood.unsent += outcome.unsent;
    }
  }
  const double peak = SpreadOf(peaks).median;
  Table table{.title = "More than the node can answer, from " + std::to_string(kFloodClients) +
                       " clients; the most that it answers is " +
                       std::to_string(static_cast<int>(peak / 1e4) / 100.0).substr(0, 4) +
                       " M rows/s",
              .columns = {{"clients", ""},
                          {"wanted", "rows/s"},
                          {"answered", "rows/s"},
                          {"of the most", ""},
                          {"node's threads busy", ""},
                          {"reads refused by name", ""},
                          {"without any answer", "reads"},
                          {"64 in flight", "reads"}},
              .rows = {}};
  for (const Flood& flood : floods) {
    table.rows.push_back({flood.clients, SpreadOf(flood.offered).median,
                          SpreadOf(flood.answered).median, SpreadOf(flood.answered).median / peak,
                          SpreadOf(flood.node_busy).median, SpreadOf(flood.refused).median,
                          flood.silent, flood.unsent});
  }
  PrintTable(table);
  report->AddTable(table);
  report->AddResult("overload_ratio", SpreadOf(floods[0].answered).median / peak);
  report->AddResult("flood_ratio", SpreadOf(floods[1].answered).median / peak);
  report->AddResult("overload_silent_reads", floods[0].silent + floods[1].silent);
  return {};
}

Status PressureRun::MeasureCrowd(Report* report) {
  const NodeContact node = fair_.process->contact();
  ENGRAM_RETURN_IF_ERROR(flood_->Connect(node, 0));
  std::this_thread::sleep_for(std::chrono::seconds(1));
  Decoded alone, idle, busy;
  ENGRAM_RETURN_IF_ERROR(Decode(fair_.decode.get(), &alone));
  const uint64_t memory_before = node.MemoryBytes();
  std::vector<LoadProcess*> crowd;
  const auto each = static_cast<uint32_t>(options_.crowd / kCrowdProcesses);
  for (const auto& process : crowd_) {
    std::fprintf(stderr, "a crowd: %u clients more\n", each);
    ENGRAM_RETURN_IF_ERROR(process->Connect(node, each));
    crowd.push_back(process.get());
  }
  const uint64_t memory_after = node.MemoryBytes();
  LoadPlan plan;
  plan.rows = kV41RowsPerToken;
  plan.seconds = options_.seconds + 0.4;
  plan.pause = std::chrono::milliseconds(20);
  const auto measure = [&](Decoded* decoded) {
    return [this, decoded]() -> Status {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      return Decode(fair_.decode.get(), decoded);
    };
  };
  plan.reads_s = 1e-3;  // they keep their sessions up
  auto outcomes = Load(crowd, plan, measure(&idle));
  if (!outcomes.has_value()) return outcomes.error();
  plan.reads_s = each;  // a read a second each
  outcomes = Load(crowd, plan, measure(&busy));
  if (!outcomes.has_value()) return outcomes.error();
  uint64_t reads = 0, silent = 0;
  for (const LoadOutcome& outcome : *outcomes) {
    reads += outcome.reads;
    silent += outcome.silent + outcome.refused + outcome.expired;
  }
  const double bytes_each =
      static_cast<double>(memory_after - memory_before) / (each * kCrowdProcesses);
  const std::string count = std::to_string(each * kCrowdProcesses);
  Table table{.title = "One node with " + count + " clients",
              .columns = {{"a decode reader", ""},
                          {"p50", "s"},
                          {"p99", "s"},
                          {"node memory a client", "B"},
                          {"reads of the others", "reads"},
                          {"of them not answered", "reads"}},
              .rows = {}};
  const auto row = [&](const char* name, const Decoded& decoded, Cell memory, Cell read_count,
                       Cell bad) {
    table.rows.push_back({name, 1e-6 * decoded.took.PercentileUs(0.5), 1e-6 * decoded.p99(),
                          std::move(memory), std::move(read_count), std::move(bad)});
  };
  row("alone", alone, std::nan(""), std::nan(""), std::nan(""));
  row("they are idle", idle, bytes_each, 0, 0);
  row("each reads 48 rows a second", busy, bytes_each, reads, silent);
  PrintTable(table);
  report->AddTable(table);
  report->AddResult("crowd_bytes_per_client", bytes_each);
  report->AddResult("crowd_unanswered_reads", silent);
  return {};
}

// What a session's beginning, and each renewal, costs a node and a coordinator.
Status MeasureTokens(const PressureOptions& options, Report* report) {
  constexpr int kCalls = 2000;
  const UnixSeconds now = UnixNow();
  auto key = TokenKey::Make(now + std::chrono::hours(2));
  if (!key.has_value()) return key.error();
  TokenKeys keys;
  keys.Add(*key, now);
  const TokenClaims claims{"worker-17", TableVersion(1), "memory-3.pool:7100",
                           now + std::chrono::hours(1)};
  std::string token;
  Status failed;
  const auto cost = [&](auto call) {
    std::vector<double> took;
    for (int i = 0; i < options.repetitions; ++i) {
      const auto began = std::chrono::steady_clock::now();
      for (int n = 0; n < kCalls && failed.ok(); ++n) call();
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - began;
      took.push_back(passed.count() / kCalls);
    }
    return SpreadOf(took).median;
  };
  const double sign = cost([&] {
    auto made = keys.Sign(claims, now);
    if (made.has_value()) token = *std::move(made);
    if (!made.has_value()) failed = made.error();
  });
  const double verify = cost([&] {
    const auto read = keys.Verify(token, claims.client, claims.version, claims.node, now);
    if (!read.has_value()) failed = read.error();
  });
  if (!failed.ok()) return failed;
  // A session shows a second token before the first lapses, so two an hour at most.
  const double share = verify * 2 * kSessionsMax / 3600;
  Table table{.title = "A token",
              .columns = {{"", ""},
                          {"one", "s"},
                          {"of a thread, " + std::to_string(kSessionsMax) + " sessions", ""}},
              .rows = {{"signed by a coordinator", sign, std::nan("")},
                       {"checked by a node", verify, share}}};
  PrintTable(table);
  report->AddTable(table);
  report->AddResult("token_check_seconds", verify);
  report->AddResult("token_checks_share", share);
  return {};
}

Status Run(const PressureOptions& options) {
  Report report("pressure", options.seed, "What do readers feel when others push?");
  report.AddSetting("bytes", options.bytes);
  report.AddSetting("greedy", options.greedy);
  report.AddSetting("greedy_rows", options.greedy_rows);
  report.AddSetting("greedy_window", options.greedy_window);
  report.AddSetting("step_us", options.step_us);
  report.AddSetting("overload", options.overload);
  report.AddSetting("crowd", options.crowd);
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_each", options.seconds);
  PressureRun run(options);
  ENGRAM_RETURN_IF_ERROR(run.Prepare());
  if (options.greedy > 0) ENGRAM_RETURN_IF_ERROR(run.MeasureFairness(&report));
  if (options.overload > 0) ENGRAM_RETURN_IF_ERROR(run.MeasureOverload(&report));
  if (options.crowd > 0) ENGRAM_RETURN_IF_ERROR(run.MeasureCrowd(&report));
  ENGRAM_RETURN_IF_ERROR(MeasureTokens(options, &report));
  return report.Write(options.json_file);
}

}  // namespace

void AddPressureCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<PressureOptions>();
  CLI::App* sub = app.add_subcommand(
      "pressure",
      "What do readers feel when others push? Starts memory nodes of its own (V4.1 shape, over\n"
      "TCP, on processor 0; everything else runs on the others) and measures a decode reader "
      "beside\n"
      "greedy ones, with reads answered by turns and as they come; what a node answers when it is\n"
      "asked for several times what it can; what a thousand clients cost, and a token.");
  sub->add_option("--bytes", options->bytes, "Bytes of the tables of each node")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option("--greedy", options->greedy, "Greedy readers; 0 = leave that question out")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  sub->add_option("--greedy-rows", options->greedy_rows, "Rows of each of their reads")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  sub->add_option("--greedy-window", options->greedy_window, "Reads that each has in flight")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_option("--step-us", options->step_us, "Pause between the decode reader's batches")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  sub->add_option("--overload", options->overload,
                  "Times what the node can answer; 0 = leave that question out")
      ->check(CLI::Range(0.0, 64.0))
      ->capture_default_str();
  sub->add_option("--crowd", options->crowd, "Clients; 0 = leave that question out")
      ->check(CLI::Range(0, 4000))
      ->capture_default_str();
  AddRunOptions(*sub, options->seconds, options->repetitions, options->seed, options->json_file);
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench
