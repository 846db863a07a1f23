#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "engram/table/row_codec.h"
#include "engram/tokenizer/tokenizer.h"
#include "tools/command.h"
#include "tools/row_reading.h"
#include "tools/row_text.h"

namespace engram {
namespace {

using nlohmann::ordered_json;

constexpr size_t kValuesShown = 8;

struct Options {
  RowReadingOptions reading;
  std::filesystem::path model_dir;
  std::optional<int32_t> layer;
  std::vector<uint64_t> rows;
  std::string text;
  bool bytes = false;
};

Result<int32_t> LayerIndex(const TableLayout& layout, int32_t layer_id) {
  const auto& ids = layout.spec().hash.layer_ids;
  const auto found = std::find(ids.begin(), ids.end(), layer_id);
  if (found != ids.end()) return static_cast<int32_t>(found - ids.begin());
  std::string have;
  for (const int32_t id : ids) have += (have.empty() ? "" : ", ") + std::to_string(id);
  return Error(StatusCode::kInvalidArgument,
               "layer " + std::to_string(layer_id) + " has no Engram table; these have: " + have);
}

// The rows of the text's tokens, in layer, token and column order.
Result<std::vector<RowAddress>> TextRows(const Options& options, const ModelTables& tables,
                                         const TableLayout& layout) {
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer,
                          Tokenizer::Load(options.model_dir / "tokenizer.json"));
  const std::vector<TokenId> ids = tokenizer.Encode(options.text);
  ENGRAM_ASSIGN_OR_RETURN(const NgramHasher hasher,
                          NgramHasher::Create(tables.spec.hash, tables.compression));
  TokenRun run;
  run.tokens = ids;
  ENGRAM_TRY(hasher.Validate(run));
  int32_t first_layer = 0;
  int32_t last_layer = layout.layer_count() - 1;
  if (options.layer.has_value()) {
    ENGRAM_ASSIGN_OR_RETURN(first_layer, LayerIndex(layout, *options.layer));
    last_layer = first_layer;
  }
  std::vector<RowAddress> addresses;
  std::vector<uint32_t> buckets(static_cast<size_t>(layout.column_count()) * ids.size());
  for (int32_t l = first_layer; l <= last_layer && !ids.empty(); ++l) {
    hasher.Hash(l, run, buckets.data(), ids.size());
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int32_t c = 0; c < layout.column_count(); ++c) {
        addresses.push_back(layout.Address(l, c, buckets[static_cast<size_t>(c) * ids.size() + t]));
      }
    }
  }
  return addresses;
}

Result<std::vector<RowAddress>> ListedRows(const Options& options, const TableLayout& layout) {
  if (!options.layer.has_value()) {
    return Error(StatusCode::kInvalidArgument, "--row needs --layer: a row id counts in its layer");
  }
  ENGRAM_ASSIGN_OR_RETURN(const int32_t layer, LayerIndex(layout, *options.layer));
  std::vector<RowAddress> addresses;
  for (const uint64_t row : options.rows) {
    ENGRAM_ASSIGN_OR_RETURN(const RowAddress address, layout.AddressOf(layer, RowId(row)));
    addresses.push_back(address);
  }
  return addresses;
}

std::string Hex(std::span<const std::byte> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const std::byte byte : bytes) {
    hex.push_back(kDigits[std::to_integer<uint32_t>(byte) >> 4]);
    hex.push_back(kDigits[std::to_integer<uint32_t>(byte) & 15]);
  }
  return hex;
}

std::vector<std::string> NodeNames(const ShardMap& map, SlotIndex slot) {
  std::vector<std::string> names;
  for (const NodeIndex node : map.Replicas(slot)) {
    if (node != kNoNode) names.push_back(map.nodes[node.value()].id);
  }
  return names;
}

// Prints rows as they come, one block after the other.
class RowPrinter {
 public:
  RowPrinter(const Options& options, bool json, const TableLayout& layout, const ShardMap& map)
      : options_(options), json_(json), layout_(layout), map_(map) {}

  Status Show(RowAddress address, std::span<const std::byte> row, StatusCode code) {
    std::vector<float> values(layout_.spec().row_values);
    if (code == StatusCode::kOk) {
      DecodeRow(layout_.spec().row_format, row.data(), layout_.spec().row_values, values.data());
    }
    return json_ ? ShowJson(address, row, code, values) : ShowText(address, row, code, values);
  }
  Status Finish() { return json_ ? Print(first_ ? "]}\n" : "\n]}\n") : Status(); }
  Status Begin(uint64_t version) {
    return json_ ? Print("{\"version\":" + std::to_string(version) + ",\"rows\":[") : Status();
  }

 private:
  Status ShowJson(RowAddress address, std::span<const std::byte> row, StatusCode code,
                  const std::vector<float>& values) {
    const RowPlace place = layout_.Place(address);
    const SlotIndex slot = layout_.SlotOf(address);
    ordered_json item = {
        {"layer", layout_.spec().hash.layer_ids[static_cast<size_t>(place.layer_index)]},
        {"row", place.row.value()},
        {"column", layout_.slot(slot).column},
        {"slot", slot.value()},
        {"nodes", NodeNames(map_, slot)},
        {"status", std::string(StatusCodeName(code))}};
    if (code == StatusCode::kOk) {
      item["values"] = values;
      item["bytes"] = Hex(row);
    }
    const std::string separator = first_ ? "\n" : ",\n";
    first_ = false;
    return Print(separator + item.dump());
  }

  Status ShowText(RowAddress address, std::span<const std::byte> row, StatusCode code,
                  const std::vector<float>& values) {
    std::string text = RowText(layout_, address) + " on";
    for (const std::string& name : NodeNames(map_, layout_.SlotOf(address))) text += " " + name;
    text += ":";
    if (code != StatusCode::kOk)
      return Print(text + " " + std::string(StatusCodeName(code)) + "\n");
    for (size_t i = 0; i < std::min(kValuesShown, values.size()); ++i) {
      std::array<char, 32> number{};
      std::snprintf(number.data(), number.size(), " %.5g", static_cast<double>(values[i]));
      text += number.data();
    }
    if (values.size() > kValuesShown) text += " ... (" + std::to_string(values.size()) + " values)";
    if (options_.bytes) text += "\n  " + Hex(row);
    return Print(text + "\n");
  }

  const Options& options_;
  bool json_;
  const TableLayout& layout_;
  const ShardMap& map_;
  bool first_ = true;
};

// The first row that could not be had is the command's error; the others are shown all the same.
Status ReadAndShow(const std::vector<RowAddress>& addresses, const Options& options, bool json,
                   LookupConnection& connection) {
  const TableLayout& layout = *connection.directory->layout();
  const auto map = connection.directory->Current();
  RowPrinter printer(options, json, layout, *map);
  ENGRAM_RETURN_IF_ERROR(printer.Begin(connection.directory->version().value()));
  constexpr size_t kBlockRows = 4096;
  std::vector<std::byte> bytes;
  std::vector<StatusCode> statuses;
  Status failure;
  for (size_t first = 0; first < addresses.size(); first += kBlockRows) {
    const auto block =
        std::span(addresses).subspan(first, std::min(kBlockRows, addresses.size() - first));
    bytes.assign(block.size() * layout.row_bytes(), std::byte{0});
    statuses.assign(block.size(), StatusCode::kOk);
    if (Status status = connection.rows->ReadRows(block, bytes, statuses); failure.ok()) {
      failure = status;
    }
    for (size_t i = 0; i < block.size(); ++i) {
      const auto row = std::span(bytes).subspan(i * layout.row_bytes(), layout.row_bytes());
      ENGRAM_RETURN_IF_ERROR(printer.Show(block[i], row, statuses[i]));
    }
  }
  ENGRAM_RETURN_IF_ERROR(printer.Finish());
  return failure;
}

Status Run(const Options& options, CommandLine& line) {
  std::optional<ModelTables> tables;
  if (!options.model_dir.empty()) {
    auto read = ReadModelTables(options.model_dir, true);
    if (!read.has_value()) return read.error();
    tables = *std::move(read);
  } else if (!options.text.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "--text needs --model: a text's rows follow from its tokenizer");
  }
  auto connection = OpenRows(options.reading, tables.has_value() ? &*tables : nullptr);
  if (!connection.has_value()) return connection.error();
  const TableLayout& layout = *connection->directory->layout();
  const auto addresses =
      options.text.empty() ? ListedRows(options, layout) : TextRows(options, *tables, layout);
  if (!addresses.has_value()) return addresses.error();
  line.json_done = line.json;
  return ReadAndShow(*addresses, options, line.json, *connection);
}

}  // namespace

void AddLookupCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("lookup", "Read rows from the memory nodes and print their values");
  command->footer(
      "  engramctl lookup --coordinator ADDR --layer 1 --row 0 384006167\n"
      "  engramctl lookup --coordinator ADDR --model DIR --text \"The quick brown fox\"\n"
      "Each row's CRC is checked. With --model, tables of another model are refused.");
  AddRowReadingOptions(*command, options->reading);
  command->add_option("--model", options->model_dir, "The model's folder; needed for --text")
      ->type_name("DIR");
  command->add_option("--layer", options->layer, "The Engram layer (for --text: all if not given)");
  auto* group = command->add_option_group("rows", "One of");
  group->add_option("--row", options->rows, "Row ids in the layer's table");
  group->add_option("--text", options->text, "The rows of this text's tokens, every column");
  group->require_option(1);
  command->add_flag("--bytes", options->bytes, "Print the stored bytes too, in hexadecimal");
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line); }; });
}

}  // namespace engram
