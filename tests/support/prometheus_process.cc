#include "tests/support/prometheus_process.h"

#include <array>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>
#include <utility>

#include <unistd.h>

#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

std::string Find(const std::string& name) {
  for (const char* folder : {"/usr/bin/", "/usr/local/bin/"}) {
    const std::string path = folder + name;
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return {};
}

std::string PercentEncoded(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      encoded += c;
      continue;
    }
    std::array<char, 4> code{};
    std::snprintf(code.data(), code.size(), "%%%02X", static_cast<unsigned char>(c));
    encoded += code.data();
  }
  return encoded;
}

}  // namespace

std::string PrometheusProcess::Program() { return Find("prometheus"); }
std::string PrometheusProcess::Promtool() { return Find("promtool"); }

Result<std::unique_ptr<PrometheusProcess>> PrometheusProcess::Start(
    const std::vector<ScrapeTarget>& targets, const std::filesystem::path& certs) {
  std::unique_ptr<PrometheusProcess> prometheus(new PrometheusProcess());
  const auto folder = prometheus->scratch_.path();
  const auto log = folder / "prometheus.log";
  // JSON is YAML.
  nlohmann::json jobs = nlohmann::json::array();
  for (const ScrapeTarget& target : targets) {
    nlohmann::json job;
    job["job_name"] = target.job;
    job["static_configs"][0]["targets"][0] = target.address;
    if (!certs.empty()) {
      job["scheme"] = "https";
      job["tls_config"] = {{"ca_file", (certs / "ca.crt").string()},
                           {"cert_file", (certs / "tls.crt").string()},
                           {"key_file", (certs / "tls.key").string()},
                           {"server_name", target.server_name}};
    }
    jobs.push_back(std::move(job));
  }
  const nlohmann::json config = {{"global", {{"scrape_interval", "1s"}, {"scrape_timeout", "1s"}}},
                                 {"scrape_configs", jobs}};
  std::ofstream(folder / "prometheus.yml") << config.dump(1);
  prometheus->address_ = FreeAddresses(1)[0];
  ENGRAM_ASSIGN_OR_RETURN(
      prometheus->process_,
      ChildProcess::Start({Program(), "--config.file=" + (folder / "prometheus.yml").string(),
                           "--storage.tsdb.path=" + (folder / "data").string(),
                           "--web.listen-address=" + prometheus->address_, "--log.level=warn"},
                          log));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < until) {
    if (HttpCall(prometheus->address_, "GET", "/-/ready").status == 200) return prometheus;
    if (!prometheus->process_.running()) {
      return Error(StatusCode::kUnavailable, "prometheus ended at its start: " + ReadFile(log));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return Error(StatusCode::kDeadlineExceeded, "prometheus is not ready: " + ReadFile(log));
}

Result<nlohmann::json> PrometheusProcess::Get(const std::string& page) const {
  const HttpReply reply = HttpCall(address_, "GET", "/api/v1/" + page);
  const auto json = nlohmann::json::parse(reply.body, nullptr, false);
  if (!json.is_object() || !json.contains("status")) {
    return Error(StatusCode::kUnavailable, "prometheus: " + reply.body);
  }
  if (json["status"] != "success") {
    return Error(StatusCode::kInvalidArgument, page + ": " + reply.body);
  }
  return json["data"];
}

Result<std::vector<PrometheusProcess::Sample>> PrometheusProcess::Query(
    const std::string& expression) const {
  ENGRAM_ASSIGN_OR_RETURN(const auto data, Get("query?query=" + PercentEncoded(expression)));
  std::vector<Sample> samples;
  for (const auto& sample : data["result"]) {
    // A value is [time, "number"].
    samples.push_back({sample["metric"], std::stod(sample["value"][1].get<std::string>())});
  }
  return samples;
}

Result<double> PrometheusProcess::Value(const std::string& expression) const {
  ENGRAM_ASSIGN_OR_RETURN(const auto samples, Query(expression));
  if (samples.size() != 1) {
    return Error(StatusCode::kNotFound,
                 expression + " gives " + std::to_string(samples.size()) + " samples");
  }
  return samples[0].value;
}

}  // namespace engram::test
