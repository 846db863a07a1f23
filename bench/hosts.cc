// How fast are rows read across a network, and do reads still hide, as the round trip grows? Asks
// engram-bench read and prefetch, each in a process of its own, whose hosts go with it.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "bench/command.h"
#include "bench/report.h"
#include "bench/started_program.h"
#include "bench/table_text.h"

namespace engram::bench {
namespace {

using nlohmann::json;

struct HostsOptions {
  std::string rate = "10gbit";
  std::vector<uint32_t> round_trips_us = {0, 100, 500, 1000, 2000};
  std::vector<uint32_t> rows = {48, 1536, 12288};
  std::vector<uint32_t> decode = {1, 8, 64, 256};
  std::string profile = "v41-like";
  uint32_t nodes = 2;
  uint64_t bytes = 1ull << 30;
  double seconds = 1;
  int repetitions = 5;
  uint64_t seed = 1;
  std::string json_file;
};

// What came out at one round trip: the reports of the two questions.
struct RoundTrip {
  uint32_t us = 0;
  json read;
  json prefetch;  // null without --decode
};

std::string Joined(const std::vector<uint32_t>& values) {
  std::string text;
  for (const uint32_t value : values) text += (text.empty() ? "" : ",") + std::to_string(value);
  return text;
}

// One question's report, of a process of its own.
Result<json> Ask(const HostsOptions& options, uint32_t round_trip_us,
                 const std::vector<std::string>& question) {
  const std::filesystem::path file = std::filesystem::temp_directory_path() /
                                     ("engram-bench-hosts-" + std::to_string(::getpid()) + ".json");
  std::vector<std::string> argv = {std::filesystem::read_symlink("/proc/self/exe").string()};
  argv.insert(argv.end(), question.begin(), question.end());
  argv.insert(argv.end(), {"--rate", options.rate, "--round-trip-us", std::to_string(round_trip_us),
                           "--bytes", std::to_string(options.bytes), "--seed",
                           std::to_string(options.seed), "--json", file.string()});
  ENGRAM_ASSIGN_OR_RETURN(StartedProgram program, StartedProgram::Start(std::move(argv)));
  ENGRAM_TRY(program.AwaitEnd());
  std::ifstream in(file);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  std::error_code ignored;
  std::filesystem::remove(file, ignored);
  return json::parse(text);
}

Result<RoundTrip> Measure(const HostsOptions& options, uint32_t us) {
  RoundTrip found{.us = us};
  std::fprintf(stderr, "round trip of %u us: read\n", us);
  ENGRAM_ASSIGN_OR_RETURN(found.read, Ask(options, us,
                                          {"read", "--rows", Joined(options.rows), "--seconds",
                                           std::to_string(options.seconds), "--repetitions",
                                           std::to_string(options.repetitions)}));
  if (options.decode.empty()) return found;
  std::fprintf(stderr, "round trip of %u us: prefetch\n", us);
  ENGRAM_ASSIGN_OR_RETURN(found.prefetch, Ask(options, us,
                                              {"prefetch", "--profile", options.profile, "--decode",
                                               Joined(options.decode), "--no-prefill", "--nodes",
                                               std::to_string(options.nodes), "--seconds",
                                               std::to_string(options.seconds)}));
  return found;
}

Table ReadTable(const std::vector<RoundTrip>& found) {
  Table table{.title = "Rows of one memory node on another host",
              .columns = {{"round trip added", "s"},
                          {"rows of a batch", ""},
                          {"stack", "rows/s"},
                          {"floor", "rows/s"},
                          {"stack/floor", ""},
                          {"p50", "s"},
                          {"p99", "s"},
                          {"floor p50", "s"},
                          {"floor p99", "s"}},
              .rows = {}};
  for (const RoundTrip& at : found) {
    for (const json& batch : at.read.at("batches")) {
      const auto us = [&batch](const char* key) { return 1e-6 * batch.at(key).get<double>(); };
      table.rows.push_back({1e-6 * at.us, batch.at("rows").get<double>(),
                            batch.at("stack").at("median").get<double>(),
                            batch.at("floor").at("median").get<double>(),
                            batch.at("stack_over_floor").at("median").get<double>(), us("p50_us"),
                            us("p99_us"), us("floor_p50_us"), us("floor_p99_us")});
    }
  }
  return table;
}

Table PrefetchTable(const std::vector<RoundTrip>& found) {
  Table table{.title = "Decode steps: do reads hide?",
              .columns = {{"round trip added", "s"},
                          {"sequences", ""},
                          {"layer", ""},
                          {"read p50", "s"},
                          {"read p99", "s"},
                          {"p99/p50", ""},
                          {"window p50", "s"},
                          {"% hidden", ""},
                          {"% stalled", ""}},
              .rows = {}};
  for (const RoundTrip& at : found) {
    for (const json& batch : at.prefetch.at("batches")) {
      for (const auto& [id, layer] : batch.at("layers").items()) {
        const double p50 = layer.at("p50_us");
        const double p99 = layer.at("p99_us");
        table.rows.push_back({1e-6 * at.us, batch.at("tokens").get<double>(), id, 1e-6 * p50,
                              1e-6 * p99, p99 / p50, 1e-6 * layer.at("window_p50_us").get<double>(),
                              100 * layer.at("hidden_fraction").get<double>(),
                              layer.at("stall_percent").get<double>()});
      }
    }
  }
  return table;
}

Plot LatencyPlot(const HostsOptions& options, const std::vector<RoundTrip>& found) {
  Plot plot{.title = "Time of a batch, p50",
            .kind = PlotKind::kLine,
            .x = {"round trip added", "s"},
            .y = {"time", "s", Scale::kLog10, {}},
            .series = {},
            .limits = {}};
  for (size_t i = 0; i < options.rows.size(); ++i) {
    for (const char* side : {"stack", "floor"}) {
      const std::string key = std::string(side) == "stack" ? "p50_us" : "floor_p50_us";
      Series series{
          .name = std::to_string(options.rows[i]) + " rows, " + side, .points = {}, .low_high = {}};
      for (const RoundTrip& at : found) {
        series.Add(1e-6 * at.us, 1e-6 * at.read.at("batches").at(i).at(key).get<double>());
      }
      plot.series.push_back(std::move(series));
    }
  }
  return plot;
}

Plot HiddenPlot(const HostsOptions& options, const std::vector<RoundTrip>& found) {
  Plot plot{.title = "Steps whose rows were there in time",
            .kind = PlotKind::kLine,
            .x = {"round trip added", "s"},
            .y = {"% hidden", ""},
            .series = {},
            .limits = {}};
  for (size_t i = 0; i < options.decode.size(); ++i) {
    const json& layers = found.front().prefetch.at("batches").at(i).at("layers");
    for (const auto& [id, ignored] : layers.items()) {
      Series series{.name = "layer " + id + ", " + std::to_string(options.decode[i]) + " sequences",
                    .points = {},
                    .low_high = {}};
      for (const RoundTrip& at : found) {
        const json& layer = at.prefetch.at("batches").at(i).at("layers").at(id);
        series.Add(1e-6 * at.us, 100 * layer.at("hidden_fraction").get<double>());
      }
      plot.series.push_back(std::move(series));
    }
  }
  return plot;
}

json ResultsJson(const std::vector<RoundTrip>& found) {
  json results = json::array();
  for (const RoundTrip& at : found) {
    json result = {{"round_trip_us", at.us}, {"read", at.read.at("batches")}};
    if (!at.prefetch.is_null()) result["prefetch"] = at.prefetch.at("batches");
    results.push_back(std::move(result));
  }
  return results;
}

Status Run(const HostsOptions& options) {
  ENGRAM_RETURN_IF_ERROR(CheckNetwork({.rate = options.rate}, "tcp"));
  if (options.rate.empty() || options.round_trips_us.empty() || options.rows.empty()) {
    return {StatusCode::kInvalidArgument, "a rate, round trips and rows are needed"};
  }
  Report report("hosts", options.seed, "How fast are rows read across a network?");
  report.AddSetting("rate", options.rate);
  report.AddSetting("profile", options.profile);
  report.AddSetting("prefetch_nodes", options.nodes);
  report.AddSetting("table_bytes", options.bytes);
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_each", options.seconds);
  std::vector<RoundTrip> found;
  for (const uint32_t us : options.round_trips_us) {
    auto measured = Measure(options, us);
    if (!measured.has_value()) return measured.error();
    found.push_back(*std::move(measured));
  }
  std::vector<Table> tables = {ReadTable(found)};
  report.AddPlot(LatencyPlot(options, found));
  if (!options.decode.empty()) {
    tables.push_back(PrefetchTable(found));
    report.AddPlot(HiddenPlot(options, found));
  }
  for (const Table& table : tables) {
    PrintTable(table);
    report.AddTable(table);
  }
  report.AddResult("round_trips", ResultsJson(found));
  return report.Write(options.json_file);
}

}  // namespace

void AddHostsCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<HostsOptions>();
  CLI::App* sub = app.add_subcommand(
      "hosts",
      "How fast are rows read across a network, and do reads still hide as the round trip grows?\n"
      "Puts client and memory nodes on hosts of their own, all on this machine: network and IPC\n"
      "namespaces with a switch between them, links of a bounded rate (tc tbf on veth), and a "
      "relay\n"
      "that holds every frame back for half the round trip asked for. Then asks read (one node,\n"
      "with the floor across the same links) and prefetch, once for each round trip. What a round\n"
      "trip takes without more is the floor's p50 at 48 rows. Needs root.");
  sub->add_option("--rate", options->rate, "Of each host's link in each direction, as tc takes it")
      ->capture_default_str();
  sub->add_option("--round-trips-us", options->round_trips_us,
                  "Added round trips in microseconds; each is measured")
      ->delimiter(',')
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  sub->add_option("--rows", options->rows, "Rows of a batch, 48 a token")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--decode", options->decode, "Sequences of a decode step of prefetch")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  sub->add_flag_callback(
      "--no-prefetch", [options] { options->decode.clear(); }, "Ask read alone");
  sub->add_option("--profile", options->profile, "Of prefetch")->capture_default_str();
  sub->add_option("--nodes", options->nodes, "Memory nodes of prefetch, each on a host")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_option("--bytes", options->bytes, "Bytes of the tables")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  AddRunOptions(*sub, options->seconds, options->repetitions, options->seed, options->json_file);
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench
