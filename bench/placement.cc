// How long a plan takes, what it moves and how evenly it spreads: a first layout, a node more, a
// node less.
#include "coordinator/placement.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include "bench/command.h"
#include "bench/repetitions.h"
#include "bench/report.h"
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

class PlacementBenchmark {
 public:
  PlacementBenchmark(const TableLayout& layout, uint32_t replicas, const PlacementOptions& options)
      : layout_(layout), replicas_(replicas), options_(options) {}

  Result<nlohmann::json> Run() {
    std::printf("%u replicas:%18s %9s %9s %10s %10s %8s %8s\n", replicas_, "median s", "least s",
                "most s", "moved GB", "moved/min", "max/mean", "column");
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
    Print(name, figures);
    (*result)[name] = {{"plan_s", ToJson(SpreadOf(figures.seconds))},
                       {"moved_bytes", figures.moved_bytes},
                       {"minimum_bytes", figures.minimum_bytes},
                       {"max_over_mean", figures.spread},
                       {"column_slots_difference", figures.column_slots_difference}};
    return owners;
  }

  static void Print(const std::string& name, const PlanFigures& figures) {
    const Spread seconds = SpreadOf(figures.seconds);
    const double ratio =
        figures.minimum_bytes == 0
            ? (figures.moved_bytes == 0 ? 1.0 : 0.0)
            : static_cast<double>(figures.moved_bytes) / static_cast<double>(figures.minimum_bytes);
    std::printf("  %-18s %9.3f %9.3f %9.3f %10.3f %10.4f %8.4f %8u\n", name.c_str(), seconds.median,
                seconds.least, seconds.most, static_cast<double>(figures.moved_bytes) * 1e-9, ratio,
                figures.spread, figures.column_slots_difference);
  }

  const TableLayout& layout_;
  const uint32_t replicas_;
  const PlacementOptions& options_;
};

uint64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

Status RunPlacement(const PlacementOptions& options) {
  Report report("placement", 0);
  const auto layout = MakeLayout(options.slots);
  if (!layout.has_value()) return layout.error();
  report.AddSetting("nodes", options.nodes);
  report.AddSetting("zones", options.zones);
  report.AddSetting("slots", layout->slot_count());
  report.AddSetting("repetitions", options.repetitions);
  std::printf("%u slots, %.1f GB, on %u nodes in %u zones\n", layout->slot_count(),
              static_cast<double>(layout->total_bytes()) * 1e-9, options.nodes,
              options.zones == 0 ? options.nodes : options.zones);
  for (const uint32_t replicas : options.replicas) {
    const auto result = PlacementBenchmark(*layout, replicas, options).Run();
    if (!result.has_value()) return result.error();
    report.AddResult("replicas_" + std::to_string(replicas), *result);
  }
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
      "Times are CPU seconds of the one planning thread. moved/min: bytes moved over the least "
      "that\n"
      "the change needs; max/mean: the most that a node holds over its share; column: the largest\n"
      "difference, in slots of one column, between nodes. \"nothing\" plans again from the first\n"
      "layout and should move nothing.");
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
