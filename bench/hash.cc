// How many tokens a core hashes per second: row ids of all Engram layers, both variants.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/command.h"
#include "bench/repetitions.h"
#include "bench/report.h"
#include "bench/table_text.h"
#include "engram/hash/bucket_kernel.h"
#include "engram/hash/ngram_hasher.h"

namespace engram::bench {
namespace {

struct HashOptions {
  std::string variant = "both";
  std::vector<size_t> batches = {1, 32, 256, 4096};
  int repetitions = 11;
  double seconds = 0.1;
  uint64_t seed = 1;
  std::string json_file;
};

struct Shape {
  std::string name;
  HashSpec spec;
  int32_t vocabulary = 0;
};

Shape V41Shape() {
  return {"v41",
          {.variant = Variant::kV41,
           .max_ngram_size = 4,
           .head_count = 8,
           .base_sizes = {16000000, 16000000, 16000000},
           .layer_ids = {1, 14},
           .compressed_vocab_size = 99092,
           .pad_id = 2},
          129280};
}

Shape DemoShape() {
  return {"demo",
          {.variant = Variant::kDemo,
           .max_ngram_size = 3,
           .head_count = 8,
           .base_sizes = {646400, 646400},
           .layer_ids = {1, 15},
           .compressed_vocab_size = 98627,
           .pad_id = 2},
          128815};
}

// Items per CPU second, over at least `seconds` of work; work() does `items`.
template <typename Work>
double RatePerSecond(double items, double seconds, const Work& work) {
  double rounds = 0;
  const double start = ThreadCpuSeconds();
  double elapsed = 0;
  do {
    // The clock is read once for about 10,000 items: it costs as much as some.
    for (double done = 0; done < 10000; done += items, ++rounds) work();
    elapsed = ThreadCpuSeconds() - start;
  } while (elapsed < seconds);
  return items * rounds / elapsed;
}

struct BatchRates {
  size_t tokens = 0;
  std::vector<double> tokens_s;
};

// What bounds the hash, as tokens per second of one core.
struct Bounds {
  // Only the remainders, portable or with the kernel chosen for this processor, on hashes and
  // buckets that stay in the first-level cache.
  std::vector<double> portable_tokens_s;
  std::vector<double> kernel_tokens_s;
  // Only writing as many bytes of buckets, into as large an array.
  std::vector<double> write_tokens_s;
};

class HashBenchmark {
 public:
  HashBenchmark(const Shape& shape, NgramHasher hasher, const HashOptions& options)
      : options_(options),
        hasher_(std::move(hasher)),
        columns_(static_cast<size_t>(shape.spec.column_count())),
        row_ids_per_token_(columns_ * shape.spec.layer_ids.size()) {
    std::mt19937_64 random(options.seed);
    const size_t most = *std::max_element(options.batches.begin(), options.batches.end());
    for (size_t i = 0; i < most; ++i) {
      tokens_.push_back(static_cast<TokenId>(random() % static_cast<uint64_t>(shape.vocabulary)));
    }
    buckets_.resize(row_ids_per_token_ * most);
    for (uint64_t& hash : hashes_) hash = random() >> 1;
    for (const size_t batch : options.batches) rates_.push_back({batch, {}});
  }

  // One repetition of everything, so that what is compared was measured side by side.
  void Repeat() {
    for (BatchRates& rate : rates_) {
      rate.tokens_s.push_back(RatePerSecond(static_cast<double>(rate.tokens), options_.seconds,
                                            [&] { HashBatch(rate.tokens); }));
    }
    const Divisor divisor(hasher_.column_sizes()[0][0]);
    const auto remainders_rate = [&](BucketKernel kernel) {
      const double rate = RatePerSecond(kHashes, options_.seconds, [&] {
        kernel(hashes_.data(), hashes_.size(), divisor, buckets_.data());
        KeepAlive();
      });
      return rate / static_cast<double>(row_ids_per_token_);
    };
    bounds_.portable_tokens_s.push_back(remainders_rate(BucketsPortable));
    bounds_.kernel_tokens_s.push_back(remainders_rate(ChooseBucketKernel(divisor)));
    const size_t bytes = rates_.back().tokens * row_ids_per_token_ * sizeof(uint32_t);
    const auto written_tokens = static_cast<double>(rates_.back().tokens);
    bounds_.write_tokens_s.push_back(RatePerSecond(written_tokens, options_.seconds, [&] {
      std::memset(buckets_.data(), 1, bytes);
      KeepAlive();
    }));
  }

  // Prints what was measured and adds it to the report.
  void Tell(const std::string& name, Report* report) const {
    const Spread portable = SpreadOf(bounds_.portable_tokens_s);
    const Spread kernel = SpreadOf(bounds_.kernel_tokens_s);
    const Spread write = SpreadOf(bounds_.write_tokens_s);
    Table table{
        .title = name + ": tokens hashed by one core, " + std::to_string(row_ids_per_token_) +
                 " row ids each",
        .columns = {{""}, {"median", "tokens/s"}, {"least", "tokens/s"}, {"most", "tokens/s"}},
        .rows = {}};
    const auto add_row = [&](const std::string& label, const Spread& spread) {
      table.rows.push_back({label, spread.median, spread.least, spread.most});
    };
    Series series{.name = name, .points = {}, .low_high = {}};
    nlohmann::json batches = nlohmann::json::array();
    for (const BatchRates& rate : rates_) {
      const Spread spread = SpreadOf(rate.tokens_s);
      add_row("batch of " + std::to_string(rate.tokens), spread);
      series.Add(static_cast<double>(rate.tokens), spread);
      batches.push_back({{"tokens", rate.tokens}, {"tokens_s", ToJson(spread)}});
    }
    add_row("bound: remainders alone, portable", portable);
    add_row("bound: remainders alone, chosen", kernel);
    add_row("bound: writing the buckets alone", write);
    PrintTable(table);
    report->AddTable(table);
    report->AddPlot({.title = name + ": tokens hashed by one core",
                     .x = {"batch", "tokens", Scale::kLog2, {}},
                     .y = {"", "tokens/s", Scale::kLinear, {}},
                     .series = {series},
                     .limits = {{"bound: remainders alone", kernel.median}}});
    report->AddResult(name, {{"row_ids_per_token", row_ids_per_token_},
                             {"tokens_s_per_core", SpreadOf(rates_.back().tokens_s).median},
                             {"batches", batches},
                             {"bound_remainders_portable_tokens_s", ToJson(portable)},
                             {"bound_remainders_tokens_s", ToJson(kernel)},
                             {"bound_write_tokens_s", ToJson(write)}});
  }

 private:
  static constexpr size_t kHashes = 1024;

  void HashBatch(size_t tokens) {
    TokenRun run;
    run.tokens = std::span(tokens_).first(tokens);
    const size_t layers = hasher_.spec().layer_ids.size();
    for (size_t layer = 0; layer < layers; ++layer) {
      uint32_t* const buckets = buckets_.data() + layer * columns_ * tokens;
      hasher_.Hash(static_cast<int32_t>(layer), run, buckets, tokens);
    }
    KeepAlive();
  }

  // The compiler must take it that the buckets are read.
  void KeepAlive() const { asm volatile("" : : "r"(buckets_.data()) : "memory"); }

  const HashOptions& options_;
  NgramHasher hasher_;
  size_t columns_;
  size_t row_ids_per_token_;
  std::vector<TokenId> tokens_;
  std::vector<uint32_t> buckets_;
  std::vector<uint64_t> hashes_ = std::vector<uint64_t>(kHashes);
  std::vector<BatchRates> rates_;
  Bounds bounds_;
};

Result<HashBenchmark> MakeBenchmark(const Shape& shape, const HashOptions& options) {
  std::vector<int32_t> compression(static_cast<size_t>(shape.vocabulary));
  for (size_t id = 0; id < compression.size(); ++id) {
    compression[id] =
        static_cast<int32_t>(id % static_cast<size_t>(shape.spec.compressed_vocab_size));
  }
  ENGRAM_ASSIGN_OR_RETURN(NgramHasher hasher, NgramHasher::Create(shape.spec, compression));
  return HashBenchmark(shape, std::move(hasher), options);
}

Status RunHash(const HashOptions& options) {
  Report report("hash", options.seed, "How many tokens does a core hash per second?");
  report.AddSetting("repetitions", options.repetitions);
  report.AddSetting("seconds_per_repetition", options.seconds);
  report.AddSetting("avx512", HasAvx512());
  for (const Shape& shape : {V41Shape(), DemoShape()}) {
    if (options.variant != "both" && options.variant != shape.name) continue;
    auto benchmark = MakeBenchmark(shape, options);
    if (!benchmark.has_value()) return benchmark.error();
    for (int i = 0; i < options.repetitions; ++i) benchmark->Repeat();
    benchmark->Tell(shape.name, &report);
  }
  return report.Write(options.json_file);
}

}  // namespace

void AddHashCommand(CLI::App& app, Status& outcome) {
  auto options = std::make_shared<HashOptions>();
  CLI::App* command = app.add_subcommand(
      "hash", "How many tokens a core hashes per second: token ids to row ids, all Engram layers");
  command->footer(
      "Rates are per CPU second of the one measuring thread, medians over the repetitions; the\n"
      "bounds are measured in between: what the remainders alone, and writing the buckets alone,\n"
      "would allow. Token ids are uniform; the hash does not depend on their values.");
  command
      ->add_option("--variant", options->variant,
                   "Which shape: v41 (DeepSeek-V4.1-Flash: 48 row ids a token), demo (the paper's "
                   "public module: 32) or both")
      ->check(CLI::IsMember({"v41", "demo", "both"}))
      ->capture_default_str();
  command
      ->add_option("--batch", options->batches,
                   "Tokens hashed per call; several may be given; the last one gives "
                   "tokens_s_per_core")
      ->check(CLI::Range(1, 1 << 20))
      ->expected(1, 16)
      ->capture_default_str();
  command->add_option("--repetitions", options->repetitions, "Repetitions; the median is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command
      ->add_option("--seconds", options->seconds,
                   "CPU seconds of each measurement in a repetition (seven of them)")
      ->check(CLI::Range(0.001, 60.0))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Seed of the token ids")->capture_default_str();
  command->add_option("--json", options->json_file, "Also write the report to this file");
  command->callback([options, &outcome] { outcome = RunHash(*options); });
}

}  // namespace engram::bench
