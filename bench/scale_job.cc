#include "bench/scale_job.h"

#include <nlohmann/json.hpp>

#include "bench/report.h"
#include "engram/checkpoint/strict_json.h"

namespace engram::bench {

Status WriteJob(const ScaleJob& job, const std::filesystem::path& file) {
  nlohmann::json json = {{"transport", job.transport},
                         {"way", job.way},
                         {"io_threads", job.io_threads},
                         {"bytes", job.bytes},
                         {"batch_tokens", job.batch_tokens},
                         {"seconds", job.seconds},
                         {"seed", job.seed},
                         {"nodes", nlohmann::json::array()}};
  for (const NodeContact& node : job.nodes) {
    json["nodes"].push_back({{"address", node.address}, {"pid", node.pid}});
  }
  return WriteWholeFile(file, json.dump());
}

Result<ScaleJob> ReadJob(const std::filesystem::path& file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(file));
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    ScaleJob job;
    job.transport = json.at("transport");
    job.way = json.at("way");
    job.io_threads = json.at("io_threads");
    job.bytes = json.at("bytes");
    job.batch_tokens = json.at("batch_tokens");
    job.seconds = json.at("seconds");
    job.seed = json.at("seed");
    for (const nlohmann::json& node : json.at("nodes")) {
      job.nodes.push_back({node.at("address"), node.at("pid")});
    }
    return job;
  } catch (const nlohmann::json::exception& error) {
    return Error(StatusCode::kMalformed, file.string() + ": " + error.what());
  }
}

void ScaleOutcome::Merge(const ScaleOutcome& other) {
  rows_s += other.rows_s;
  rows += other.rows;
  reads += other.reads;
  client_cpu_seconds += other.client_cpu_seconds;
  node_cpu_seconds += other.node_cpu_seconds;
  took.Merge(other.took);
}

std::string ScaleOutcome::ToText() const {
  return nlohmann::json{{"rows_s", rows_s},
                        {"rows", rows},
                        {"reads", reads},
                        {"client_cpu_seconds", client_cpu_seconds},
                        {"node_cpu_seconds", node_cpu_seconds},
                        {"latency_bins", took.ToJson()}}
      .dump();
}

Result<ScaleOutcome> ScaleOutcome::FromText(const std::string& text) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    ScaleOutcome outcome;
    outcome.rows_s = json.at("rows_s");
    outcome.rows = json.at("rows");
    outcome.reads = json.at("reads");
    outcome.client_cpu_seconds = json.at("client_cpu_seconds");
    outcome.node_cpu_seconds = json.at("node_cpu_seconds");
    ENGRAM_ASSIGN_OR_RETURN(outcome.took, LatencyHistogram::FromJson(json.at("latency_bins")));
    return outcome;
  } catch (const nlohmann::json::exception& error) {
    return Error(StatusCode::kMalformed,
                 std::string("the outcome of a client process: ") + error.what());
  }
}

Result<ScaleOutcome> ReadOutcome(const std::filesystem::path& file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(file));
  return ScaleOutcome::FromText(text);
}

}  // namespace engram::bench
