#include <map>
#include <memory>

#include "tools/command.h"
#include "tools/model_plan.h"
#include "tools/model_writer.h"

namespace engram {
namespace {

using nlohmann::ordered_json;

const std::map<std::string, Variant> kVariants = {{"v41", Variant::kV41}, {"demo", Variant::kDemo}};
const std::map<std::string, Dtype> kDenseDtypes = {{"bf16", Dtype::kBf16}, {"f32", Dtype::kF32}};
const std::map<std::string, Dtype> kTableDtypes = {
    {"f32", Dtype::kF32}, {"bf16", Dtype::kBf16}, {"f16", Dtype::kF16}};

struct Options {
  MakeModelOptions model;
  WriteModelOptions write;
};

ordered_json Summary(const ModelPlan& plan, const ModelIdentity& identity,
                     const std::filesystem::path& out) {
  return {{"model", out.string()},
          {"model_identity", ModelIdentityHex(identity)},
          {"compressed_vocab_size", plan.spec.hash.compressed_vocab_size},
          {"row_counts", plan.row_counts},
          {"table_bytes", plan.table_bytes},
          {"total_bytes", plan.total_bytes},
          {"parameters_non_embedding", plan.parameters_non_embedding}};
}

Status Run(const Options& options, bool json) {
  ProgressLine progress;
  progress.Show("make-model: reading " + options.write.tokenizer_json.string(), true);
  auto tokenizer = Tokenizer::Load(options.write.tokenizer_json);
  if (!tokenizer.has_value()) return tokenizer.error();
  const auto compression = CompressVocabulary(*tokenizer);
  if (!compression.has_value()) return compression.error();
  const auto plan = PlanModel(options.model, *tokenizer, *compression);
  if (!plan.has_value()) return plan.error();
  ENGRAM_RETURN_IF_ERROR(WriteModel(*plan, options.write, progress));

  const ModelIdentity identity = ComputeModelIdentity(plan->spec, compression->table);
  if (json) return PrintJson(Summary(*plan, identity, options.write.out));
  return Print(options.write.out.string() + ": tables " + BytesText(plan->table_bytes) +
               ", all tensors " + BytesText(plan->total_bytes) + ", " +
               std::to_string(plan->parameters_non_embedding) +
               " parameters without tables and embeddings, V = " +
               std::to_string(plan->spec.hash.compressed_vocab_size) + "\nmodel identity " +
               ModelIdentityHex(identity) + "\n");
}

void AddEngramOptions(CLI::App& command, MakeModelOptions& model) {
  const std::string group = "Engram";
  command.add_option("--layers-engram", model.engram_layers, "Decoder layers with Engram, from 0")
      ->delimiter(',')
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--base-rows", model.base_rows,
                  "Rows asked for in each column, before the next primes. V4.1-Flash has 16000000 "
                  "(189 GiB); 90000 make 1.06 GiB of v41 tables")
      ->capture_default_str()
      ->group(group);
  command.add_option("--ngram-max", model.max_ngram_size, "Longest n-gram (v41: 4, demo: 3)")
      ->group(group);
  command.add_option("--heads-engram", model.engram_heads, "Hash heads for each n-gram order")
      ->capture_default_str()
      ->group(group);
  command.add_option("--row-values", model.row_values, "Values in a row (v41: 256, demo: 64)")
      ->group(group);
  command.add_option("--pad-token-id", model.pad_token_id, "Stands before a sequence's start")
      ->capture_default_str()
      ->group(group);
  command.add_option("--hash-seed", model.hash_seed, "demo only: the hash multipliers' seed")
      ->capture_default_str()
      ->group(group);
  command.add_option("--kernel-size", model.kernel_size, "demo only: of the short convolution")
      ->capture_default_str()
      ->group(group);
  command.add_option("--table-dtype", model.table_dtype, "demo only: f32, bf16 or f16")
      ->transform(CLI::CheckedTransformer(kTableDtypes).description(""))
      ->type_name("DTYPE")
      ->default_str("f32")
      ->group(group);
}

void AddDenseOptions(CLI::App& command, MakeModelOptions& model) {
  const std::string group = "Dense model (Qwen3)";
  const auto add = [&](const char* name, int32_t& value, const char* what) {
    command.add_option(name, value, what)->capture_default_str()->group(group);
  };
  command
      .add_flag("--tables-only", model.tables_only,
                "No dense weights: enough for memory nodes and benchmarks, not for a model worker")
      ->group(group);
  add("--hidden", model.hidden_size, "Width of the residual stream");
  add("--intermediate", model.intermediate_size, "Width of the MLP");
  add("--layers", model.layer_count, "Decoder layers");
  add("--heads", model.head_count, "Attention heads");
  add("--kv-heads", model.kv_head_count, "Key and value heads; a divisor of --heads");
  add("--head-dim", model.head_dim, "Width of one head; even");
  add("--positions", model.positions_max, "max_position_embeddings");
  add("--vocab-size", model.vocabulary_size,
      "Rows of embedding and output matrices, at least the tokenizer's tokens; 0 = as many. Qwen3 "
      "has 151936");
  command
      .add_flag("--tie-embeddings", model.tie_embeddings,
                "Use the embedding as output matrix too (random weights then tend to repeat)")
      ->group(group);
  command.add_option("--dtype", model.dtype, "Of the dense weights: bf16 or f32")
      ->transform(CLI::CheckedTransformer(kDenseDtypes).description(""))
      ->type_name("DTYPE")
      ->default_str("bf16")
      ->group(group);
}

}  // namespace

void AddMakeModelCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "make-model",
      "Make a checkpoint with seeded random weights: config.json, tokenizer.json, safetensors");
  command->footer(
      "Same options, same seed: same bytes. Example, 1.06 GiB of tables in the V4.1 layout:\n"
      "  engramctl make-model --out model --tokenizer tokenizer.json --base-rows 90000");
  command->add_option("--out", options->write.out, "Folder to make")->type_name("DIR")->required();
  command
      ->add_option("--tokenizer", options->write.tokenizer_json,
                   "A Hugging Face tokenizer.json (byte-level BPE); copied into the folder")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--variant", options->model.variant,
                   "v41: DeepSeek-V4.1-Flash's layout; demo: the Engram paper's public module")
      ->transform(CLI::CheckedTransformer(kVariants).description(""))
      ->type_name("VARIANT")
      ->default_str("v41");
  command->add_option("--seed", options->write.seed, "Of the weights")->capture_default_str();
  command->add_flag("--force", options->write.force, "Replace the folder if it is a model");
  AddEngramOptions(*command, options->model);
  AddDenseOptions(*command, options->model);
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line.json); }; });
}

}  // namespace engram
