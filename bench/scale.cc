// What happens to rates, costs and memory as nodes, clients and tables grow, and what would a large
// cluster need?
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

#include "bench/command.h"
#include "bench/read_node.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/scale_figures.h"
#include "bench/scale_job.h"
#include "bench/started_program.h"
#include "bench/table_text.h"
#include "bench/v41_shape.h"

namespace engram::bench {
namespace {

struct ScaleOptions {
  std::vector<uint32_t> nodes = {1, 2, 4, 8};
  std::vector<uint32_t> clients = {1, 2, 4};
  uint64_t grid_bytes = 1ull << 30;
  std::vector<uint64_t> bytes = {256ull << 20, 1ull << 30, 8ull << 30};
  uint32_t rows = 12288;
  std::string transport = "tcp";
  std::string way = "auto";
  uint32_t io_threads = 1;
  double seconds = 1;
  int repetitions = 3;
  uint64_t seed = 1;
  ScaleGoal goal;
  std::string json_file;
};

constexpr uint32_t kBatchRowsMax = 1u << 16;

// A folder for the files between this program and its clients, gone with it.
class JobFolder {
 public:
  JobFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("engram-bench-scale-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~JobFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  JobFolder(const JobFolder&) = delete;
  JobFolder& operator=(const JobFolder&) = delete;
  [[nodiscard]] std::filesystem::path job() const { return path_ / "job.json"; }
  [[nodiscard]] std::filesystem::path outcome() const { return path_ / "outcome.json"; }

 private:
  std::filesystem::path path_;
};

Result<std::string> ClientProgram() {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::filesystem::path program = self.parent_path() / "engram-bench-scale-client";
  if (std::filesystem::exists(program)) return program.string();
  return Error(StatusCode::kNotFound,
               program.string() +
                   " is missing: this engram-bench was built without MPI; run deploy/install-deps, "
                   "configure and build again");
}

class ScaleRun {
 public:
  ScaleRun(const ScaleOptions& options, std::string client_program)
      : options_(options), client_program_(std::move(client_program)) {}

  // The grid's points come first, then those of the table sizes.
  void AddPoints() {
    for (const uint32_t nodes : options_.nodes) {
      for (const uint32_t clients : options_.clients) {
        points_.push_back({.nodes = nodes, .clients = clients, .bytes = options_.grid_bytes});
      }
    }
    grid_points_ = points_.size();
    for (const uint64_t bytes : options_.bytes) {
      points_.push_back({.nodes = options_.nodes.front(), .clients = 1, .bytes = bytes});
    }
  }
  // Every point once; in the other order every other time, so that what the machine does meanwhile
  // meets all.
  Status Repeat(int repetition) {
    for (size_t i = 0; i < points_.size(); ++i) {
      const size_t at = repetition % 2 == 0 ? i : points_.size() - 1 - i;
      std::fprintf(stderr, "repetition %d of %d: %u nodes, %u clients, %.2f GiB\n", repetition + 1,
                   options_.repetitions, points_[at].nodes, points_[at].clients,
                   static_cast<double>(points_[at].bytes) / (1 << 30));
      ENGRAM_RETURN_IF_ERROR(Measure(points_[at]));
    }
    return {};
  }
  [[nodiscard]] ScaleFigures Figures() const {
    const auto grid_end = points_.begin() + static_cast<ptrdiff_t>(grid_points_);
    return {{points_.begin(), grid_end}, {grid_end, points_.end()}, options_.goal};
  }

 private:
  Status StartNodes(ScalePoint& point) {
    if (started_nodes_ == point.nodes && started_bytes_ == point.bytes) return {};
    nodes_.clear();
    auto made = TableLayout::Create(V41Spec(point.bytes, kV41CompressedIds, kV41RowValues));
    if (!made.has_value()) return made.error();
    layout_ = std::make_shared<const TableLayout>(*std::move(made));
    for (uint32_t i = 0; i < point.nodes; ++i) {
      ReadNode::Options options;
      options.transport = options_.transport;
      options.part = i;
      options.parts = point.nodes;
      auto node = ReadNode::Start(options, layout_);
      if (!node.has_value()) return node.error();
      nodes_.push_back(*std::move(node));
    }
    started_nodes_ = point.nodes;
    started_bytes_ = point.bytes;
    return {};
  }

  Result<ScaleOutcome> RunClients(uint32_t clients) {
    ScaleJob job;
    job.transport = options_.transport;
    job.way = options_.way;
    job.io_threads = options_.io_threads;
    job.bytes = started_bytes_;
    job.batch_tokens = options_.rows / kV41RowsPerToken;
    job.seconds = options_.seconds;
    job.seed = options_.seed;
    for (const auto& node : nodes_) job.nodes.push_back(node->contact());
    ENGRAM_TRY(WriteJob(job, folder_.job()));
    // Ranks wait for each other before and after, never within what is timed: that must not take
    // the cores of those still working. MPI carries no rows, so it needs no network.
    std::vector<std::string> argv = {"mpirun", "--oversubscribe", "--bind-to", "none"};
    for (const char* setting : {"pml ob1", "btl self,vader", "btl_vader_single_copy_mechanism none",
                                "mpi_yield_when_idle 1"}) {
      const std::string text(setting);
      const size_t space = text.find(' ');
      argv.insert(argv.end(), {"--mca", text.substr(0, space), text.substr(space + 1)});
    }
    if (::geteuid() == 0) argv.emplace_back("--allow-run-as-root");
    argv.insert(argv.end(), {"-np", std::to_string(clients), client_program_,
                             folder_.job().string(), folder_.outcome().string()});
    ENGRAM_ASSIGN_OR_RETURN(StartedProgram program, StartedProgram::Start(std::move(argv)));
    ENGRAM_TRY(program.AwaitEnd());
    return ReadOutcome(folder_.outcome());
  }

  Status Measure(ScalePoint& point) {
    ENGRAM_RETURN_IF_ERROR(StartNodes(point));
    const auto outcome = RunClients(point.clients);
    if (!outcome.has_value()) return outcome.error();
    const auto rows = static_cast<double>(outcome->rows);
    uint64_t memory = 0;
    for (const auto& node : nodes_) memory += node->row_memory_bytes();
    point.huge_pages = nodes_.front()->huge_pages();
    point.row_stride = layout_->row_stride();
    point.rows_s.push_back(outcome->rows_s);
    point.client_us_per_row.push_back(1e6 * outcome->client_cpu_seconds / rows);
    point.node_us_per_row.push_back(1e6 * outcome->node_cpu_seconds / rows);
    point.reads_per_row.push_back(static_cast<double>(outcome->reads) / rows);
    point.memory_per_row_byte.push_back(static_cast<double>(memory) /
                                        static_cast<double>(layout_->total_bytes()));
    point.took.Merge(outcome->took);
    return {};
  }

  const ScaleOptions& options_;
  const std::string client_program_;
  const JobFolder folder_;
  std::vector<ScalePoint> points_;
  size_t grid_points_ = 0;
  std::shared_ptr<const TableLayout> layout_;
  std::vector<std::unique_ptr<ReadNode>> nodes_;
  uint32_t started_nodes_ = 0;
  uint64_t started_bytes_ = 0;
};

Status Run(ScaleOptions options) {
  ENGRAM_RETURN_IF_ERROR(CheckBatchRows(options.rows, kBatchRowsMax, kV41RowsPerToken));
  options.goal.batch_rows = options.rows;
  const auto client_program = ClientProgram();
  if (!client_program.has_value()) return client_program.error();
  if (const auto mpirun = FindProgram("mpirun"); !mpirun.has_value()) {
    return mpirun.error().WithContext("deploy/install-deps installs it");
  }
  Report report("scale", options.seed, "What do nodes, clients and larger tables change?");
  report.AddSetting("transport", options.transport);
  report.AddSetting("way", options.way);
  report.AddSetting("rows", options.rows);
  report.AddSetting("io_threads", options.io_threads);
  report.AddSetting("grid_bytes", options.grid_bytes);
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_each", options.seconds);

  ScaleRun run(options, *client_program);
  run.AddPoints();
  for (int i = 0; i < options.repetitions; ++i) ENGRAM_RETURN_IF_ERROR(run.Repeat(i));

  const ScaleFigures figures = run.Figures();
  for (const Table& table : figures.Tables()) {
    PrintTable(table);
    report.AddTable(table);
  }
  for (const Plot& plot : figures.Plots()) report.AddPlot(plot);
  report.AddResult("points", figures.PointsJson());
  report.AddResult("needs", figures.NeedsJson());
  return report.Write(options.json_file);
}

}  // namespace

void AddScaleCommand(CLI::App& app, Status& outcome) {
  const auto options = std::make_shared<ScaleOptions>();
  CLI::App* sub = app.add_subcommand(
      "scale",
      "What do nodes, clients and larger tables change? Starts every number of memory nodes, each\n"
      "with its part of the tables (V4.1 shape), and client processes by mpirun, which read\n"
      "batches in a closed loop at the same time: rates, CPU time and memory of a row. Then the\n"
      "arithmetic: CPU time = rows x cost of a row + messages x cost of a message, fitted to all\n"
      "points and shown beside each, and what it says of a cluster of the size asked for. All of\n"
      "it runs on this machine: more processes than cores do not read more rows.");
  sub->add_option("--nodes", options->nodes, "Numbers of memory nodes")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_option("--clients", options->clients, "Numbers of client processes")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_option("--grid-bytes", options->grid_bytes, "Bytes of the tables of those")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option("--bytes", options->bytes,
                  "Sizes of tables that one client reads from the first number of nodes")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  sub->add_option("--rows", options->rows, "Rows of a batch, 48 a token")->capture_default_str();
  sub->add_option("--transport", options->transport, "What rows travel over")
      ->check(CLI::IsMember({"tcp", "shm", "auto"}))
      ->capture_default_str();
  sub->add_option("--way", options->way, "How rows are read")
      ->check(CLI::IsMember({"auto", "gather", "mapped"}))
      ->capture_default_str();
  sub->add_option("--io-threads", options->io_threads, "Of each client")->capture_default_str();
  sub->add_option("--for-bytes", options->goal.table_bytes,
                  "Bytes of the tables that the arithmetic is done for")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--for-tokens", options->goal.tokens_s,
                  "Tokens a second of all model workers, likewise")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  sub->add_option("--node-memory", options->goal.node_memory_bytes,
                  "Bytes of rows in one memory node, likewise")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  AddRunOptions(*sub, options->seconds, options->repetitions, options->seed, options->json_file);
  sub->callback([options, &outcome] { outcome = Run(*options); });
}

}  // namespace engram::bench
