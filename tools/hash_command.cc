#include <charconv>
#include <limits>
#include <memory>
#include <vector>

#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/strict_json.h"
#include "engram/tokenizer/tokenizer.h"
#include "tools/command.h"
#include "tools/token_input.h"

namespace engram {
namespace {

constexpr size_t kFlushBytes = 1u << 20;

// Writes the document piece by piece: a long text has millions of numbers.
class Output {
 public:
  void Number(uint64_t value) {
    std::array<char, 20> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    text_.append(digits.data(), end);
  }
  void Text(std::string_view text) { text_ += text; }
  Status FlushIfLarge() { return text_.size() < kFlushBytes ? Status() : Flush(); }
  Status Flush() {
    Status status = Print(text_);
    text_.clear();
    return status;
  }

 private:
  std::string text_;
};

// One list of columns per token.
//   buckets  [columns][tokens]
//   offsets  [columns] added to each bucket
Status WriteColumns(const std::vector<uint32_t>& buckets, size_t token_count,
                    const std::vector<uint64_t>& offsets, Output& out) {
  out.Text("[");
  for (size_t t = 0; t < token_count; ++t) {
    out.Text(t == 0 ? "[" : ",[");
    for (size_t c = 0; c < offsets.size(); ++c) {
      if (c > 0) out.Text(",");
      out.Number(offsets[c] + buckets[c * token_count + t]);
    }
    out.Text("]");
    ENGRAM_RETURN_IF_ERROR(out.FlushIfLarge());
  }
  out.Text("]");
  return Status();
}

Status Run(const std::filesystem::path& model_dir, const TokenInput& input) {
  const auto tables = ReadModelTables(model_dir, false);
  if (!tables.has_value()) return tables.error();
  const auto ids = ReadTokens(input, model_dir);
  if (!ids.has_value()) return ids.error();
  const auto hasher = NgramHasher::Create(tables->spec.hash, tables->compression);
  if (!hasher.has_value()) return hasher.error();
  TokenRun run;
  run.tokens = *ids;
  ENGRAM_RETURN_IF_ERROR(hasher->Validate(run));

  Output out;
  out.Text("{\"compressed_vocab_size\":");
  out.Number(static_cast<uint64_t>(tables->spec.hash.compressed_vocab_size));
  out.Text(",\"ids\":" + nlohmann::json(*ids).dump() + ",\"layers\":{");
  const auto columns = static_cast<size_t>(tables->spec.hash.column_count());
  std::vector<uint32_t> buckets(columns * ids->size());
  for (size_t l = 0; l < tables->spec.hash.layer_ids.size(); ++l) {
    if (!ids->empty()) hasher->Hash(static_cast<int32_t>(l), run, buckets.data(), ids->size());
    std::vector<uint64_t> offsets(columns, 0);
    out.Text((l == 0 ? "\"" : ",\"") + std::to_string(tables->spec.hash.layer_ids[l]) +
             "\":{\"buckets\":");
    ENGRAM_RETURN_IF_ERROR(WriteColumns(buckets, ids->size(), offsets, out));
    for (size_t c = 1; c < columns; ++c) {
      offsets[c] = offsets[c - 1] + hasher->column_sizes()[l][c - 1];
    }
    out.Text(",\"row_ids\":");
    ENGRAM_RETURN_IF_ERROR(WriteColumns(buckets, ids->size(), offsets, out));
    out.Text("}");
  }
  out.Text("}}\n");
  return out.Flush();
}

}  // namespace

void AddHashCommand(CLI::App& app, CommandLine& line) {
  struct Options {
    std::filesystem::path model_dir;
    TokenInput input;
    std::string format = "json";
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "hash", "Print the Engram row ids of a text or of token ids, for every Engram layer");
  command->footer(
      "Prints "
      "{\"compressed_vocab_size\":V,\"ids\":[...],\"layers\":{\"<layer>\":{\"buckets\":[[...]],"
      "\"row_ids\":[[...]]}}}:\n"
      "one list of columns per token; a bucket is the hash mod its column's prime, a row id has "
      "the\n"
      "column's offset added. The input is one sequence from its start; no BOS is added.");
  command->add_option("--model", options->model_dir, "A folder with config.json and tokenizer.json")
      ->type_name("DIR")
      ->required();
  AddTokenInputOptions(*command, options->input);
  command->add_option("--format", options->format, "Output format")
      ->check(CLI::IsMember({"json"}))
      ->capture_default_str();
  command->callback([options, &line] {
    line.run = [options] { return Run(options->model_dir, options->input); };
  });
}

}  // namespace engram
