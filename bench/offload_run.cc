#include "bench/offload_run.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "bench/json_fields.h"
#include "bench/json_file.h"
#include "bench/number_text.h"

namespace engram::bench {
namespace {

using nlohmann::json;

constexpr double kNotRun = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kRunsMax = 10'000;

// The members of one object that must be there. After the first one that is not as it must be all
// are empty, and failure() says which it was.
class Members {
 public:
  explicit Members(const json& object) : object_(object) {
    if (!object.is_object()) Fail("it", "no object");
  }

  double Number(const std::string& key) {
    const json* member = Find(key);
    if (member == nullptr) return 0;
    const auto number = ReadNumber(*member);
    if (!number.has_value() || std::isnan(*number)) return Fail(key, "no number");
    return *number;
  }
  double Seconds(const std::string& key, double unit_s) { return unit_s * Number(key); }
  std::string Text(const std::string& key) {
    const json* member = Find(key);
    if (member == nullptr) return "";
    if (!member->is_string()) Fail(key, "no text");
    return failure_.ok() ? member->get<std::string>() : "";
  }
  bool Truth(const std::string& key) {
    const json* member = Find(key);
    if (member == nullptr) return false;
    if (!member->is_boolean()) Fail(key, "neither true nor false");
    return failure_.ok() && member->get<bool>();
  }
  std::vector<double> Numbers(const std::string& key) {
    std::vector<double> numbers;
    if (Find(key) == nullptr) return numbers;
    const Status status = ReadEach(object_, key.c_str(), kRunsMax, [&](const json& item) -> Status {
      const auto number = ReadNumber(item);
      if (!number.has_value()) return number.error();
      if (std::isnan(*number)) return {StatusCode::kMalformed, "is no number"};
      numbers.push_back(*number);
      return {};
    });
    if (!status.ok()) Fail(key, "no array of numbers");
    return numbers;
  }
  // Calls read(name, members) for each member of the object `key`, each an object too.
  template <typename Read>
  void Each(const std::string& key, const Read& read) {
    const json* member = Find(key);
    if (member == nullptr) return;
    if (!member->is_object()) Fail(key, "no object");
    if (!failure_.ok()) return;
    for (const auto& [name, object] : member->items()) {
      Members members(object);
      read(name, members);
      Take(members, std::string(key).append(".").append(name));
    }
  }
  // Calls read(members) with those of the object `key`.
  template <typename Read>
  void In(const std::string& key, const Read& read) {
    const json* member = Find(key);
    if (member == nullptr) return;
    Members members(*member);
    if (members.failure_.ok()) read(members);
    Take(members, key);
  }

  [[nodiscard]] const Status& failure() const { return failure_; }

 private:
  const json* Find(const std::string& key) {
    if (!failure_.ok()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    Fail(key, "missing");
    return nullptr;
  }
  double Fail(const std::string& key, const std::string& is) {
    if (failure_.ok()) failure_ = {StatusCode::kMalformed, key + " is " + is};
    return 0;
  }
  void Take(const Members& inner, const std::string& place) {
    if (failure_.ok() && !inner.failure_.ok()) failure_ = inner.failure_.WithContext(place);
  }

  const json& object_;
  Status failure_;
};

// As compare names them.
constexpr std::array<const char*, kOffloadSideCount> kSideKeys = {"remote", "local", "device",
                                                                  "off"};

std::optional<OffloadSideFigures> ReadSide(Members& report, const std::string& key) {
  OffloadSideFigures figures;
  figures.tok_s_runs = report.Numbers("tok_s_" + key + "_runs");
  if (figures.tok_s_runs.empty()) return std::nullopt;
  figures.tok_s = report.Number("tok_s_" + key);
  figures.decode_tok_s = report.Number("decode_tok_s_" + key);
  figures.prefill_tok_s = report.Number("prefill_tok_s_" + key);
  report.In("latency_" + key, [&](Members& latency) {
    figures.ttft_p50_s = latency.Seconds("ttft_p50_ms", 1e-3);
    figures.ttft_p99_s = latency.Seconds("ttft_p99_ms", 1e-3);
    figures.tpot_p50_s = latency.Seconds("tpot_p50_ms", 1e-3);
    figures.tpot_p99_s = latency.Seconds("tpot_p99_ms", 1e-3);
  });
  return figures;
}

std::vector<OffloadLayerFigures> ReadLayers(Members& report) {
  std::vector<OffloadLayerFigures> layers;
  report.Each("layers", [&](const std::string& id, Members& layer) {
    const double steps = layer.Number("batches");
    layers.push_back({.id = id,
                      .read_p50_s = layer.Seconds("prefetch_p50_us", 1e-6),
                      .read_p99_s = layer.Seconds("prefetch_p99_us", 1e-6),
                      .window_p50_s = layer.Seconds("window_p50_us", 1e-6),
                      .in_time = layer.Number("hidden_fraction"),
                      .stall_s = layer.Seconds("stall_ms", 1e-3) / std::max(1.0, steps)});
  });
  // JSON has "14" before "2".
  std::sort(layers.begin(), layers.end(), [](const auto& a, const auto& b) {
    return std::pair(a.id.size(), a.id) < std::pair(b.id.size(), b.id);
  });
  return layers;
}

std::string WayText(Members& report) {
  std::string way = report.Text("way");
  const std::string transport = report.Text("transport");
  if (transport != "auto") way += " over " + transport;
  const double spin_us = report.Number("io_spin_us");
  if (spin_us > 0) way += ", spin " + NumberText(spin_us, 0) + " us";
  return way;
}

Result<OffloadRun> ParseObject(const json& object) {
  Members report(object);
  OffloadRun run;
  run.shape = report.Text("model");
  run.backend = report.Text("backend");
  run.hardware = report.Text("hardware");
  run.way = WayText(report);
  for (const auto& [key, number] : {std::pair{"concurrency", &run.concurrency},
                                    {"requests", &run.requests},
                                    {"prompt_tokens", &run.prompt_tokens},
                                    {"generated_tokens", &run.generated_tokens},
                                    {"parameters_non_embedding", &run.parameters_non_embedding},
                                    {"threads", &run.threads},
                                    {"io_threads", &run.io_threads},
                                    {"cache_bytes", &run.cache_bytes},
                                    {"pairs", &run.pairs},
                                    {"ratio_median", &run.ratio},
                                    {"ratio_ci95_coverage", &run.ratio_coverage},
                                    {"rows_verified", &run.rows_verified},
                                    {"rows_wrong", &run.rows_wrong},
                                    {"rows_failed", &run.rows_failed}}) {
    *number = report.Number(key);
  }
  const std::vector<double> interval = report.Numbers("ratio_ci95");
  if (report.failure().ok() && interval.size() != 2) {
    return Malformed("ratio_ci95 has not two numbers");
  }
  run.identical_tokens = report.Truth("identical_tokens");
  for (size_t i = 0; i < kOffloadSideCount; ++i) {
    // Tables in GPU memory: only where asked for, and newer than the others.
    const bool optional = static_cast<OffloadSide>(i) == OffloadSide::kDevice;
    const std::string key = kSideKeys[i];
    if (optional && !(object.is_object() && object.contains("tok_s_" + key + "_runs"))) continue;
    run.sides[i] = ReadSide(report, key);
  }
  run.ratio_of_device =
      run.side(OffloadSide::kDevice).has_value() ? report.Number("ratio_median_device") : kNotRun;
  run.layers = ReadLayers(report);
  report.In("local", [&](Members& local) { run.layers_in_process = ReadLayers(local); });
  if (!report.failure().ok()) return Error(report.failure());
  run.ratio_low = interval[0];
  run.ratio_high = interval[1];
  for (const OffloadSide side : {OffloadSide::kRemote, OffloadSide::kInProcess}) {
    if (!run.side(side).has_value()) return Malformed(OffloadSideName(side) + " has no runs");
  }
  const bool same_layers = std::equal(run.layers.begin(), run.layers.end(),
                                      run.layers_in_process.begin(), run.layers_in_process.end(),
                                      [](const auto& a, const auto& b) { return a.id == b.id; });
  if (!same_layers) {
    return Malformed("layers and local.layers are of different models");
  }
  return run;
}

}  // namespace

std::string OffloadSideName(OffloadSide side) {
  switch (side) {
    case OffloadSide::kRemote:
      return "memory nodes";
    case OffloadSide::kInProcess:
      return "in process";
    case OffloadSide::kDevice:
      return "GPU memory";
    case OffloadSide::kOff:
      return "Engram off";
  }
  return "";
}

double OffloadRun::ratio_of_off() const {
  const auto& off = side(OffloadSide::kOff);
  if (!off.has_value() || !(off->tok_s > 0)) return kNotRun;
  return side(OffloadSide::kRemote)->tok_s / off->tok_s;
}

Result<OffloadRun> ParseOffloadRun(std::string_view text) {
  const std::string fix = "; leave this file out, or make it again with bench/offload";
  auto object = ParseJson(text);
  if (!object.has_value()) return Malformed(object.error().message() + fix);
  auto run = ParseObject(*object);
  if (run.has_value()) return run;
  return Malformed("is JSON, but not what engram-model-worker compare --json writes: " +
                   run.error().message() + fix);
}

Result<OffloadRun> ReadOffloadRun(const std::filesystem::path& file) {
  auto text = ReadJsonBytes(file);
  if (!text.has_value()) return Error(text.error().WithContext(file.string()));
  auto run = ParseOffloadRun(*text);
  if (!run.has_value()) return Error(run.error().WithContext(file.string()));
  run->setting = std::filesystem::weakly_canonical(file).parent_path().filename().string();
  return run;
}

Result<std::vector<OffloadRun>> ReadOffloadRuns(const std::filesystem::path& folder) {
  std::vector<OffloadRun> runs;
  std::error_code error;
  for (const auto& setting : std::filesystem::directory_iterator(folder, error)) {
    if (!setting.is_directory(error)) continue;
    for (const auto& file : std::filesystem::directory_iterator(setting, error)) {
      if (file.path().extension() != ".json") continue;
      ENGRAM_ASSIGN_OR_RETURN(OffloadRun run, ReadOffloadRun(file.path()));
      runs.push_back(std::move(run));
    }
  }
  if (runs.empty()) {
    return Error(StatusCode::kNotFound,
                 folder.string() +
                     " has no SETTING/*.json: name the folder that bench/offload --out "
                     "had, or write what engram-model-worker compare --json gives into such files");
  }
  std::sort(runs.begin(), runs.end(), [](const OffloadRun& a, const OffloadRun& b) {
    return std::tie(a.setting, a.shape, a.way, a.concurrency) <
           std::tie(b.setting, b.shape, b.way, b.concurrency);
  });
  return runs;
}

}  // namespace engram::bench
