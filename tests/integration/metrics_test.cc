// A whole cluster as a real Prometheus sees it.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/prometheus_process.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

constexpr int kRequests = 4;
const std::string kCertificate = "engram_certificate_expires_seconds";

// What the documentation and Prometheus must agree on.
struct Family {
  std::string type;
  std::set<std::string> labels;  // without those that Prometheus adds
  friend bool operator==(const Family&, const Family&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Family& family) {
    return out << family.type << " " << testing::PrintToString(family.labels);
  }
};
using Families = std::map<std::string, Family>;

// The rows "| `name` | type | unit | labels | ..." of docs/METRICS.md.
Families Documented() {
  Families families;
  std::ifstream file(std::string(ENGRAM_SOURCE_DIR) + "/docs/METRICS.md");
  const std::regex row(R"(\| `([a-z_]+)` \| ([a-z]+) \|[^|]*\|([^|]*)\|.*)");
  const std::regex label("`([a-z_]+)`");
  for (std::string line; std::getline(file, line);) {
    std::smatch cells;
    if (!std::regex_match(line, cells, row)) continue;
    Family family{cells[2], {}};
    const std::string labels = cells[3];
    for (std::sregex_iterator at(labels.begin(), labels.end(), label), end; at != end; ++at) {
      family.labels.insert((*at)[1]);
    }
    EXPECT_TRUE(families.emplace(cells[1], family).second) << cells[1] << " stands there twice";
  }
  return families;
}

class MetricsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (PrometheusProcess::Program().empty() || PrometheusProcess::Promtool().empty()) {
      GTEST_SKIP() << "prometheus is not installed: run deploy/install-deps";
    }
    StartCluster();
  }
  virtual void StartCluster() { Start(false); }
  void Start(bool certs) {
    auto cluster = TestCluster::Start({.nodes = 2, .certs = certs});
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
    StartWorker(certs);
    ASSERT_FALSE(worker_http_.empty());
    targets_ = {{"coordinator", cluster_->coordinator_http(), "c0"},
                {"memory-node-0", cluster_->node_http(0), "m0"},
                {"memory-node-1", cluster_->node_http(1), "m1"},
                {"model-worker", worker_http_, "worker"}};
    auto prometheus = PrometheusProcess::Start(
        targets_, certs ? cluster_->certs() / "operator" : std::filesystem::path());
    ASSERT_TRUE(prometheus.has_value()) << prometheus.error().ToString();
    prometheus_ = *std::move(prometheus);
    if (certs) return;
    for (int i = 0; i < kRequests; ++i) {
      const nlohmann::json request = {{"prompt", "Every row is checked, every row"},
                                      {"max_tokens", 8}};
      const HttpReply reply = HttpCall(worker_http_, "POST", "/v1/completions", request.dump());
      ASSERT_EQ(reply.status, 200) << reply.body;
    }
  }

  void StartWorker(bool certs) {
    const auto announce = cluster_->scratch() / "worker.json";
    const auto log = cluster_->scratch() / "worker.log";
    std::vector<std::string> argv = {std::string(ENGRAM_BIN_DIR) + "/engram-model-worker",
                                     "serve",
                                     "--model",
                                     cluster_->model_dir().string(),
                                     "--coordinator",
                                     cluster_->coordinator_address(),
                                     "--transport",
                                     "tcp",
                                     "--way",
                                     "gather",
                                     "--cache-bytes",
                                     "1MiB",
                                     "--listen",
                                     "127.0.0.1:0",
                                     "--announce-file",
                                     announce.string()};
    if (certs) {
      ASSERT_TRUE(cluster_->IssueCertificate("reader", "worker").ok());
      argv.insert(argv.end(), {"--certs", (cluster_->certs() / "worker").string()});
    }
    auto started = ChildProcess::Start(argv, log);
    ASSERT_TRUE(started.has_value()) << started.error().ToString();
    worker_ = *std::move(started);
    const auto announcement = AwaitAnnouncement(announce, worker_, log);
    ASSERT_TRUE(announcement.has_value()) << announcement.error().ToString();
    worker_http_ = (*announcement)["http"].get<std::string>();
  }

  // `comparison` (with "bool") becomes true of one sample: scrapes are up to a second old.
  void ExpectSoon(const std::string& comparison) const {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    Result<double> last = 0.0;
    while (std::chrono::steady_clock::now() < until) {
      last = prometheus_->Value(comparison);
      if (last.has_value() && *last == 1.0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    std::string sides;
    for (const std::string name : {"engram_client_", "engram_node_", "engram_coordinator_"}) {
      const auto samples = prometheus_->Query("{__name__=~\"" + name + ".*\",le=\"\"}");
      if (!samples.has_value()) continue;
      for (const auto& sample : *samples) {
        sides += sample.labels.dump() + " " + std::to_string(sample.value) + "\n";
      }
    }
    ADD_FAILURE() << comparison << " did not become true"
                  << (last.has_value() ? "" : ": " + last.error().ToString()) << "\n"
                  << sides;
  }

  std::unique_ptr<TestCluster> cluster_;
  ChildProcess worker_;
  std::string worker_http_;
  std::vector<ScrapeTarget> targets_;
  std::unique_ptr<PrometheusProcess> prometheus_;
};

TEST_F(MetricsTest, PrometheusScrapesEveryProcessAndTheirFiguresAgree) {
  ExpectSoon("count(up == 1) == bool 4");
  ExpectSoon("count(process_resident_memory_bytes > 0) == bool 4");
  ExpectSoon("engram_worker_requests_total{result=\"finished\"} == bool " +
             std::to_string(kRequests));

  // Rows, from the model's need to the nodes.
  ExpectSoon("engram_client_rows_asked_total > bool engram_client_rows_unique_total");
  ExpectSoon("engram_client_rows_from_cache_total > bool 0");
  ExpectSoon("engram_client_rows_read_total > bool 0");
  ExpectSoon(
      "engram_client_rows_unique_total == bool "
      "engram_client_rows_from_cache_total + engram_client_rows_read_total");
  ExpectSoon("engram_client_rows_verified_total == bool engram_client_rows_read_total");
  ExpectSoon("engram_client_rows_corrupt_total + engram_client_rows_failed_total == bool 0");
  ExpectSoon("sum(engram_node_rows_total) >= bool sum(engram_client_rows_read_total)");
  ExpectSoon("sum(engram_node_reads_total) >= bool sum(engram_client_reads_total)");
  ExpectSoon("sum(engram_node_sent_bytes_total) >= bool sum(engram_client_read_bytes_total)");
  ExpectSoon("engram_client_cache_rows > bool 0");
  ExpectSoon("engram_client_staging_bytes > bool 0");

  // Every ticket of both layers, and how long it took.
  ExpectSoon("count(engram_client_tickets_total{layer=~\"1|3\"} > 0) == bool 2");
  ExpectSoon(
      "count(engram_client_prefetch_seconds_count == engram_client_tickets_total) == bool 2");
  ExpectSoon("count(engram_client_window_seconds_count == engram_client_tickets_total) == bool 2");
  ExpectSoon("count(engram_client_tickets_late_total <= engram_client_tickets_total) == bool 2");
  ExpectSoon("count(histogram_quantile(0.5, engram_client_prefetch_seconds_bucket) > 0) == bool 2");
  ExpectSoon("count(engram_node_gather_seconds_count == engram_node_reads_total) == bool 2");
  ExpectSoon("count(engram_node_gather_seconds_sum > 0) == bool 2");

  // Sessions, epochs, loading.
  ExpectSoon("sum(engram_client_sessions) >= bool 2");
  ExpectSoon("sum(engram_node_sessions) == bool sum(engram_client_sessions{way=\"gather\"})");
  ExpectSoon("sum(engram_client_shard_map_epoch) == bool sum(engram_coordinator_shard_map_epoch)");
  ExpectSoon("min(engram_node_shard_map_epoch) == bool max(engram_coordinator_shard_map_epoch)");
  ExpectSoon("engram_coordinator_loaded_bytes == bool engram_coordinator_table_bytes");
  ExpectSoon(
      "sum(engram_node_slot_bytes{state=\"ready\"}) == bool sum(engram_coordinator_loaded_bytes)");
  ExpectSoon("engram_coordinator_slots_ready == bool engram_coordinator_slots");
  ExpectSoon("engram_coordinator_replicas_missing + engram_coordinator_moves_pending == bool 0");
  ExpectSoon("engram_coordinator_nodes_up == bool 2");
}

TEST_F(MetricsTest, PagesPassPromtoolAndStandInTheDocumentation) {
  for (const ScrapeTarget& target : targets_) {
    const auto page = cluster_->scratch() / (target.job + ".metrics");
    std::ofstream(page) << HttpCall(target.address, "GET", "/metrics").body;
    const CommandOutput check =
        RunCommand({"/bin/sh", "-c",
                    PrometheusProcess::Promtool() + " check metrics < '" + page.string() + "'"},
                   std::chrono::seconds(60));
    EXPECT_EQ(check.exit_status, 0) << target.job << ": " << check.out << check.err;
  }

  ExpectSoon("count(up == 1) == bool 4");
  const auto metadata = prometheus_->Get("metadata");
  ASSERT_TRUE(metadata.has_value()) << metadata.error().ToString();
  Families scraped;
  for (const auto& [name, kinds] : metadata->items()) {
    ASSERT_EQ(kinds.size(), 1u) << name << " differs between processes: " << kinds;
    EXPECT_FALSE(kinds[0]["help"].get<std::string>().empty()) << name;
    scraped[name].type = kinds[0]["type"].get<std::string>();
  }
  const auto samples = prometheus_->Query("{__name__=~\"engram_.+|process_.+\"}");
  ASSERT_TRUE(samples.has_value()) << samples.error().ToString();
  for (const auto& sample : *samples) {
    std::string name = sample.labels["__name__"];
    if (!scraped.contains(name)) {
      name = std::regex_replace(name, std::regex("_(bucket|sum|count)$"), "");
    }
    for (const auto& [label, value] : sample.labels.items()) {
      if (label == "__name__" || label == "job" || label == "instance" || label == "le") continue;
      scraped.at(name).labels.insert(label);
    }
  }
  // Told where there are certificates: the next test.
  Families expected = Documented();
  EXPECT_EQ(expected.at(kCertificate), (Family{"gauge", {"use"}}));
  expected.erase(kCertificate);
  EXPECT_THAT(scraped, testing::ContainerEq(expected));
}

class SecureMetricsTest : public MetricsTest {
 protected:
  void StartCluster() override { Start(true); }
};

TEST_F(SecureMetricsTest, EveryProcessTellsUntilWhenItsCertificateIsValid) {
  ExpectSoon("count(up == 1) == bool 4");
  const std::string left = "(" + kCertificate + "{use=\"cluster\"} - time())";
  ExpectSoon("count(" + left + " > 86400 * 7 and " + left + " < 86400 * 3650) == bool 4");
}

}  // namespace
}  // namespace engram::test
