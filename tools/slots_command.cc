// Which nodes own which slots.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engram/base/text_table.h"
#include "engram/table/table_layout.h"
#include "engram/table/table_proto.h"
#include "tools/command.h"
#include "tools/coordinator_calls.h"

namespace engram {
namespace {

struct Options {
  CoordinatorOptions coordinator;
  uint64_t version = 0;
  std::optional<uint32_t> slot;
  std::string node_id;
};

std::vector<std::string> OwnersOf(const ShardMap& map, uint32_t slot) {
  std::vector<std::string> owners;
  for (const NodeIndex owner : map.Replicas(SlotIndex(slot))) {
    if (owner != kNoNode) owners.push_back(map.nodes[owner.value()].id);
  }
  return owners;
}

Status Run(const Options& options, bool json) {
  proto::GetShardMapRequest request;
  request.set_version(options.version);
  const auto reply = CallGetShardMap(options.coordinator, request);
  if (!reply.has_value()) return reply.error();
  const auto spec = TableSpecFromProto(reply->spec());
  if (!spec.has_value()) return spec.error();
  const auto created = TableLayout::Create(*spec);
  if (!created.has_value()) return created.error();
  const TableLayout& layout = *created;
  const auto told = ShardMapFromProto(reply->map(), layout.slot_count());
  if (!told.has_value()) return told.error();
  const ShardMap& map = *told;
  if (options.slot.has_value() && *options.slot >= layout.slot_count()) {
    return Status(StatusCode::kInvalidArgument, "slot " + std::to_string(*options.slot) +
                                                    ": version " +
                                                    std::to_string(map.version.value()) + " has " +
                                                    std::to_string(layout.slot_count()));
  }
  std::vector<TableRow> rows = {{"SLOT", "LAYER", "FIRST ROW", "ROWS", "NODES"}};
  auto slots = nlohmann::ordered_json::array();
  for (uint32_t slot = 0; slot < layout.slot_count(); ++slot) {
    if (options.slot.has_value() && slot != *options.slot) continue;
    const std::vector<std::string> owners = OwnersOf(map, slot);
    if (!options.node_id.empty() &&
        std::find(owners.begin(), owners.end(), options.node_id) == owners.end()) {
      continue;
    }
    const SlotRange& range = layout.slot(SlotIndex(slot));
    const int32_t layer = spec->hash.layer_ids[static_cast<size_t>(range.layer_index)];
    if (json) {
      slots.push_back({{"slot", slot},
                       {"layer", layer},
                       {"first_row", range.first_row.value()},
                       {"rows", range.row_count},
                       {"nodes", owners}});
      continue;
    }
    std::string names;
    for (const std::string& owner : owners) names += (names.empty() ? "" : " ") + owner;
    rows.push_back({std::to_string(slot), std::to_string(layer),
                    std::to_string(range.first_row.value()), std::to_string(range.row_count),
                    names.empty() ? "none" : names});
  }
  if (json) {
    return PrintJson({{"version", map.version.value()},
                      {"epoch", map.epoch.value()},
                      {"slots", std::move(slots)}});
  }
  return Print("version " + std::to_string(map.version.value()) + ", epoch " +
               std::to_string(map.epoch.value()) + "\n" + TextTable(rows));
}

}  // namespace

void AddSlotsCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("slots", "Show which nodes own which slots");
  AddCoordinatorOptions(*command, options->coordinator);
  command->add_option("--version", options->version, "Of this version (0 = the current one)");
  command->add_option("--slot", options->slot, "This slot alone");
  command->add_option("--node", options->node_id, "Slots of this node alone");
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line.json); }; });
}

}  // namespace engram
