// How long a plan takes, what it moves and how evenly it spreads: a first layout, a node more, a
// node less.
#include "coordinator/placement.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include "bench/command.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/table_text.h"
#include "engram/table/shard_map.h"

namespace engram::bench {
namespace {

struct PlacementOptions {
  uint32_t nodes = 1000;
  uint32_t slots = 100'000;
  std::vector<uint32_t> replicas = {1, 2, 3};
  uint32_t zones = 0;
  int repetitions = 5;
  std::string json_file;
};

// The shape of DeepSeek-V4.1-Flash's tables, with as many rows as give about `slots` slots.
Result<TableLayout> MakeLayout(uint32_t slots) {
  constexpr int64_t kColumns = 48;
  constexpr int64_t kSlotRows = 16384;  // of rows of 264 bytes
  TableSpec spec;
  spec.hash.variant = Variant::kV41;
  spec.hash.max_ngram_size = 4;
  spec.hash.head_count = 8;
  spec.hash.base_sizes.assign(3, int64_t{slots} * kSlotRows / kColumns);
  spec.hash.layer_ids = {1, 14};
  spec.hash.compressed_vocab_size = 99092;
  spec.row_values = 256;
  return TableLayout::Create(spec);
}

std::vector<PlacementNode> MakeNodes(uint32_t count, uint32_t zones) {
  std::vector<PlacementNode> nodes;
  for (uint32_t i = 0; i < count; ++i) {
    const std::string zone = zones == 0 ? "" : "zone" + std::to_string(i % zones);
    nodes.push_back({"node" + std::to_string(i), zone, 1ull << 40, 0, true});
  }
  return nodes;
}

struct PlanFigures {
  std::vector<double> seconds;
  uint64_t moved_bytes = 0;
  uint64_t minimum_bytes = 0;
  double spread = 0;  // the most that a node holds over what it should hold
  uint32_t column_slots_difference = 0;
};

// The largest difference between nodes that accept, over all columns. They are all equal here.
uint32_t ColumnDifference(const TableLayout& layout, uint32_t replicas,
                          const std::vector<PlacementNode>& nodes,
                          const std::vector<NodeIndex>& owners) {
  uint32_t difference = 0;
  for (int32_t layer = 0; layer < layout.layer_count(); ++layer) {
    for (int32_t c = 0; c < layout.column_count(); ++c) {
      const TableLayout::Column& column = layout.column(layer, c);
      std::vector<uint32_t> slots(nodes.size(), 0);
      const size_t first = size_t{column.first_slot} * replicas;
      for (size_t i = 0; i < size_t{column.slot_count} * replicas; ++i) {
        if (owners[first + i] != kNoNode) ++slots[owners[first + i].value()];
      }
      uint32_t least = UINT32_MAX;
      uint32_t most = 0;
      for (size_t i = 0; i < nodes.size(); ++i) {
        if (!nodes[i].accepts) continue;
        least = std::min(least, slots[i]);
        most = std::max(most, slots[i]);
      }
      difference = std::max(difference, most - least);
    }
  }
  return difference;
}

double SpreadOver(const TableLayout& layout, uint32_t replicas,
                  const std::vector<PlacementNode>& nodes, const std::vector<NodeIndex>& owners) {
  std::vector<double> bytes(nodes.size(), 0);
  for (size_t i = 0; i < owners.size(); ++i) {
    if (owners[i] == kNoNode) continue;
    bytes[owners[i].value()] +=
        static_cast<double>(layout.slot_bytes(SlotIndex(static_cast<uint32_t>(i / replicas))));
  }
  const std::vector<uint64_t> target = TargetBytes(layout, replicas, nodes);
  double spread = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (target[i] > 0) spread = std::max(spread, bytes[i] / static_cast<double>(target[i]));
  }
  return spread;
}

// What all numbers of replicas show together.
struct PlacementFigures {
  Table table{.title = "Plans",
              .columns = {{"replicas"},
                          {"change"},
                          {"plan, median", "s"},
                          {"least", "s"},
                          {"most", "s"},
                          {"moved", "B"},
                          {"moved / least possible"},
                          {"most / share"},
                          {"column difference", "slots"}},
              .rows = {}};
  Plot seconds{.title = "Time of a plan",
               .kind = PlotKind::kBar,
               .x = {"replicas", "", Scale::kLinear, {}},
               .y = {"CPU time of the planner", "s", Scale::kLinear, {}},
               .series = {},
               .limits = {}};
  Plot moved{.title = "Bytes that a change moves",
             .kind = PlotKind::kBar,
             .x = {"replicas", "", Scale::kLinear, {}},
             .y = {"moved over the least possible", "", Scale::kLinear, {}},
             .series = {},
             .limits = {{"the least possible", 1}}};
};

// The series of that name, which may be new.
Series* SeriesNamed(const std::string& name, Plot* plot) {
  for (Series& series : plot->series) {
    if (series.name == name) return &series;
  }
  return &plot->series.emplace_back(Series{.name = name, .points = {}, .low_high = {}});
}

class PlacementBenchmark {
 public:
  PlacementBenchmark(const TableLayout& layout, uint32_t replicas, const PlacementOptions& options,
                     PlacementFigures* figures)
      : layout_(layout), replicas_(replicas), options_(options), figures_(figures) {}

  Result<nlohmann::json> Run() {
    const std::vector<PlacementNode> nodes = MakeNodes(options_.nodes, options_.zones);
    nlohmann::json result;
    ENGRAM_ASSIGN_OR_RETURN(const auto first, Measure("first layout", nodes, {}, &result));
    const std::vector<PlacementNode> more = MakeNodes(options_.nodes + 1, options_.zones);
    ENGRAM_ASSIGN_OR_RETURN(const auto with_more, Measure("a node more", more, first, &result));
    std::vector<PlacementNode> fewer = nodes;
    fewer.back().accepts = false;
    ENGRAM_ASSIGN_OR_RETURN(const auto with_fewer, Measure("a node less", fewer, first, &result));
    ENGRAM_ASSIGN_OR_RETURN(const auto same, Measure("nothing", nodes, first, &result));
    return result;
  }

 private:
  Result<std::vector<NodeIndex>> Measure(const std::string& name,
                                         const std::vector<PlacementNode>& nodes,
                                         const std::vector<NodeIndex>& current,
                                         nlohmann::json* result) {
    PlanFigures figures;
    std::vector<NodeIndex> owners;
    for (int i = 0; i < options_.repetitions; ++i) {
      const double start = ThreadCpuSeconds();
      ENGRAM_ASSIGN_OR_RETURN(owners, PlanOwners(layout_, replicas_, nodes, current));
      figures.seconds.push_back(ThreadCpuSeconds() - start);
    }
    figures.moved_bytes = MovedBytes(layout_, MovesBetween(replicas_, current, owners));
    figures.minimum_bytes = MinimumBytes(layout_, replicas_, nodes, current);
    figures.spread = SpreadOver(layout_, replicas_, nodes, owners);
    figures.column_slots_difference = ColumnDifference(layout_, replicas_, nodes, owners);
    Tell(name, figures);
    (*result)[name] = {{"plan_s", ToJson(SpreadOf(figures.seconds))},
                       {"moved_bytes", figures.moved_bytes},
                       {"minimum_bytes", figures.minimum_bytes},
                       {"max_over_mean", figures.spread},
                       {"column_slots_difference", figures.column_slots_difference}};
    return owners;
  }

  void Tell(const std::string& name, const PlanFigures& plan) {
    const Spread seconds = SpreadOf(plan.seconds);
    const double ratio = plan.minimum_bytes == 0 ? std::numeric_limits<double>::quiet_NaN()
                                                 : static_cast<double>(plan.moved_bytes) /
                                                       static_cast<double>(plan.minimum_bytes);
    figures_->table.rows.push_back({replicas_, name, seconds.median, seconds.least, seconds.most,
                                    plan.moved_bytes, ratio, plan.spread,
                                    plan.column_slots_difference});
    SeriesNamed(name, &figures_->seconds)->Add(replicas_, seconds);
    // What plans again moves nothing; a bar of it would only take room.
    if (plan.moved_bytes > 0) SeriesNamed(name, &figures_->moved)->Add(replicas_, ratio);
  }

  const TableLayout& layout_;
  const uint32_t replicas_;
  const PlacementOptions& options_;
  PlacementFigures* const figures_;
};

uint64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

Status RunPlacement(const PlacementOptions& options) {
  Report report("placement", 0, "How long does a plan take, and what does it move?");
  const auto layout = MakeLayout(options.slots);
  if (!layout.has_value()) return layout.error();
  report.AddSetting("nodes", options.nodes);
  report.AddSetting("zones", options.zones);
  report.AddSetting("slots", layout->slot_count());
  report.AddSetting("repetitions", options.repetitions);
  std::printf("%u slots, %.1f GB, on %u nodes in %u zones\n", layout->slot_count(),
              static_cast<double>(layout->total_bytes()) * 1e-9, options.nodes,
              options.zones == 0 ? options.nodes : options.zones);
  PlacementFigures figures;
  for (const uint32_t replicas : options.replicas) {
    const auto result = PlacementBenchmark(*layout, replicas, options, &figures).Run();
    if (!result.has_value()) return result.error();
    report.AddResult("replicas_" + std::to_string(replicas), *result);
  }
  PrintTable(figures.table);
  report.AddPlot(figures.seconds);
  report.AddPlot(figures.moved);
  report.AddTable(figures.table);
  const uint64_t peak_bytes = PeakResidentBytes();
  std::printf("peak memory of this process: %.1f MB\n", static_cast<double>(peak_bytes) * 1e-6);
  report.AddResult("peak_resident_bytes", peak_bytes);
  return report.Write(options.json_file);
}

}  // namespace

void AddPlacementCommand(CLI::App& app, Status& outcome) {
  auto options = std::make_shared<PlacementOptions>();
  CLI::App* command = app.add_subcommand(
      "placement",
      "How long the coordinator's planner takes, what it moves, how even it leaves it");
  command->footer(
      "Times are CPU seconds of the one planning thread. Moved / least possible: bytes moved over\n"
      "the least that the change needs; most / share: the most that a node holds over its share;\n"
      "column difference: the largest, in slots of one column, between nodes. \"nothing\" plans\n"
      "again from the first layout and should move nothing.");
  command->add_option("--nodes", options->nodes, "Memory nodes before the change")
      ->check(CLI::Range(uint32_t{kReplicasMax + 1}, kNodesMax - 1))
      ->capture_default_str();
  command->add_option("--slots", options->slots, "Slots of the tables, about")
      ->check(CLI::Range(uint32_t{5000}, kSlotCountMax))
      ->capture_default_str();
  command->add_option("--replicas", options->replicas, "Replicas; several may be given")
      ->check(CLI::Range(uint32_t{1}, kReplicasMax))
      ->expected(1, 3)
      ->capture_default_str();
  command->add_option("--zones", options->zones, "Zones of the nodes; 0: each node is its own")
      ->check(CLI::Range(uint32_t{0}, kNodesMax))
      ->capture_default_str();
  command->add_option("--repetitions", options->repetitions, "Repetitions; the median is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--json", options->json_file, "Also write the report to this file");
  command->callback([options, &outcome] { outcome = RunPlacement(*options); });
}

}  // namespace engram::bench
