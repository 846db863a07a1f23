#include "tests/support/test_cluster.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>

namespace engram::test {
namespace {

using std::chrono::seconds;

std::string Program(const std::string& name) { return std::string(ENGRAM_BIN_DIR) + "/" + name; }

std::string Tail(const std::string& text) {
  return text.size() <= 3000 ? text : "..." + text.substr(text.size() - 3000);
}

}  // namespace

Result<nlohmann::json> AwaitAnnouncement(const std::filesystem::path& file, ChildProcess& process,
                                         const std::filesystem::path& log) {
  const auto until = std::chrono::steady_clock::now() + seconds(60);
  while (std::chrono::steady_clock::now() < until) {
    if (std::filesystem::exists(file)) {
      auto json = nlohmann::json::parse(ReadFile(file), nullptr, false);
      if (!json.is_discarded()) return json;
    }
    if (!process.running()) {
      return Error(StatusCode::kUnavailable,
                   "a process ended at its start: " + Tail(ReadFile(log)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return Error(StatusCode::kDeadlineExceeded, "no announcement: " + Tail(ReadFile(log)));
}

Status MakeTinyModel(const std::filesystem::path& dir, const std::string& variant, int base_rows,
                     int seed, int kv_heads) {
  const CommandOutput made = RunCommand({Program("engramctl"),
                                         "make-model",
                                         "--out",
                                         dir.string(),
                                         "--tokenizer",
                                         std::string(ENGRAM_TEST_DATA) + "/tiny_tokenizer.json",
                                         "--variant",
                                         variant,
                                         "--base-rows",
                                         std::to_string(base_rows),
                                         "--layers-engram",
                                         "1,3",
                                         "--hidden",
                                         "64",
                                         "--intermediate",
                                         "128",
                                         "--layers",
                                         "5",
                                         "--heads",
                                         std::to_string(2 * kv_heads),
                                         "--kv-heads",
                                         std::to_string(kv_heads),
                                         "--head-dim",
                                         "16",
                                         "--seed",
                                         std::to_string(seed)},
                                        seconds(120));
  if (made.exit_status == 0) return {};
  return {StatusCode::kInternal, "engramctl make-model: " + made.out + made.err};
}

Result<std::unique_ptr<TestCluster>> TestCluster::Start(const ClusterOptions& options) {
  std::unique_ptr<TestCluster> cluster(new TestCluster(options));
  ENGRAM_TRY(
      MakeTinyModel(cluster->model_dir(), options.variant, options.base_rows, 1, options.kv_heads));
  if (options.certs) {
    const CommandOutput made = cluster->Certs({"init"});
    if (made.exit_status != 0) return Error(StatusCode::kInternal, made.out + made.err);
    ENGRAM_TRY(cluster->IssueCertificate("reader", "reader"));
    ENGRAM_TRY(cluster->IssueCertificate("operator", "operator"));
  }
  cluster->coordinators_.resize(static_cast<size_t>(options.coordinators));
  for (int i = 0; i < options.coordinators; ++i) {
    ENGRAM_TRY(cluster->StartCoordinator(i, "127.0.0.1:0"));
  }
  cluster->nodes_.resize(static_cast<size_t>(options.nodes));
  for (int i = 0; i < options.nodes; ++i) ENGRAM_TRY(cluster->StartNode(i, "127.0.0.1:0"));
  const CommandOutput created = cluster->Ctl(
      {"create-version", "--model", cluster->model_dir().string(), "--expect-nodes",
       std::to_string(options.nodes), "--replicas", std::to_string(options.replicas), "--wait"});
  if (created.exit_status != 0) {
    return Error(StatusCode::kInternal, "engramctl create-version: " + created.out + created.err +
                                            Tail(cluster->CoordinatorLog()));
  }
  return cluster;
}

Status TestCluster::StartCoordinator(int i, const std::string& listen) {
  Coordinator& coordinator = coordinators_[static_cast<size_t>(i)];
  const std::string name = "c" + std::to_string(i);
  const auto announce = scratch_.path() / (name + ".json");
  const auto log = scratch_.path() / (name + ".log");
  std::filesystem::remove(announce);
  const std::string store = options_.store.empty()
                                ? "sqlite:" + (scratch_.path() / "state.sqlite").string()
                                : options_.store;
  std::vector<std::string> argv = {Program("engram-coordinator"),
                                   "--listen",
                                   listen,
                                   "--http",
                                   "127.0.0.1:0",
                                   "--store",
                                   store,
                                   "--announce-file",
                                   announce.string()};
  argv.insert(argv.end(), options_.coordinator_arguments.begin(),
              options_.coordinator_arguments.end());
  ENGRAM_RETURN_IF_ERROR(AddCertificate("coordinator", name, &argv));
  auto started = ChildProcess::Start(argv, log);
  if (!started.has_value()) return started.error();
  coordinator.process = std::move(*started);
  auto announcement = AwaitAnnouncement(announce, coordinator.process, log);
  if (!announcement.has_value()) return announcement.error().WithContext("engram-coordinator");
  // The same where it restarts; not written then, for a test's other thread may read it.
  if (const auto address = (*announcement)["rpc"].get<std::string>();
      address != coordinator.address) {
    coordinator.address = address;
  }
  coordinator.http_address = (*announcement)["http"].get<std::string>();
  return {};
}

std::string TestCluster::coordinator_address() const {
  std::string list;
  for (const Coordinator& coordinator : coordinators_) {
    list += (list.empty() ? "" : ",") + coordinator.address;
  }
  return list;
}

Status TestCluster::StartNode(int i, const std::string& listen) {
  Node& node = nodes_[static_cast<size_t>(i)];
  const std::string name = "m" + std::to_string(i);
  const auto announce = scratch_.path() / (name + ".json");
  const auto log = scratch_.path() / (name + ".log");
  std::filesystem::remove(announce);
  std::vector<std::string> argv = {Program("engram-shard-server"),
                                   "--id",
                                   name,
                                   "--zone",
                                   "z" + std::to_string(i),
                                   "--coordinator",
                                   coordinator_address(),
                                   "--listen",
                                   listen,
                                   "--http",
                                   "127.0.0.1:0",
                                   "--memory",
                                   options_.node_memory,
                                   "--transport",
                                   options_.transport,
                                   "--one-sided",
                                   options_.one_sided,
                                   "--enable-test-hooks",
                                   "--announce-file",
                                   announce.string()};
  argv.insert(argv.end(), options_.node_arguments.begin(), options_.node_arguments.end());
  ENGRAM_RETURN_IF_ERROR(AddCertificate("node", name, &argv));
  auto started = ChildProcess::Start(argv, log);
  if (!started.has_value()) return started.error();
  node.process = std::move(*started);
  auto announcement = AwaitAnnouncement(announce, node.process, log);
  if (!announcement.has_value()) return announcement.error().WithContext("engram-shard-server");
  node.data_address = (*announcement)["data"].get<std::string>();
  node.http_address = (*announcement)["http"].get<std::string>();
  return {};
}

std::string TestCluster::NodeLog(int i) const {
  return ReadFile(scratch_.path() / ("m" + std::to_string(i) + ".log"));
}

std::string TestCluster::CoordinatorLog(int i) const {
  return ReadFile(scratch_.path() / ("c" + std::to_string(i) + ".log"));
}

Status TestCluster::AddNode() {
  nodes_.emplace_back();
  return StartNode(node_count() - 1, "127.0.0.1:0");
}

Status TestCluster::RestartNode(int i) {
  return StartNode(i, nodes_[static_cast<size_t>(i)].data_address);
}

Status TestCluster::RestartCoordinator(int i) {
  return StartCoordinator(i, coordinators_[static_cast<size_t>(i)].address);
}

Status TestCluster::WaitReady() {
  return WaitFor("not ready", [](const nlohmann::json& version) {
    return version.at("ready_slots") == version.at("slot_count");
  });
}

Status TestCluster::WaitSettled() {
  return WaitFor("still moving", [](const nlohmann::json& version) {
    return version.at("moves_pending") == 0 && version.at("replicas_missing") == 0 &&
           version.at("ready_slots") == version.at("slot_count");
  });
}

Status TestCluster::WaitFor(const std::string& otherwise,
                            const std::function<bool(const nlohmann::json&)>& holds) {
  const auto until = std::chrono::steady_clock::now() + seconds(60);
  CommandOutput last;
  while (std::chrono::steady_clock::now() < until) {
    last = Ctl({"status", "--json"});
    const auto json = nlohmann::json::parse(last.out, nullptr, false);
    if (last.exit_status == 0 && json.is_object() && json.contains("versions")) {
      const auto& versions = json["versions"];
      if (!versions.empty() && std::all_of(versions.begin(), versions.end(), holds)) return {};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return {StatusCode::kDeadlineExceeded, otherwise + ": " + last.out + last.err};
}

CommandOutput TestCluster::Ctl(std::vector<std::string> arguments,
                               const std::string& holder) const {
  arguments.insert(arguments.begin(), Program("engramctl"));
  arguments.insert(arguments.end(), {"--coordinator", coordinator_address()});
  if (options_.certs) arguments.insert(arguments.end(), {"--certs", (certs() / holder).string()});
  return RunCommand(arguments, seconds(120));
}

CommandOutput TestCluster::Certs(std::vector<std::string> arguments) const {
  arguments.insert(arguments.begin(), {Program("engramctl"), "certs"});
  arguments.insert(arguments.end(), {"--dir", certs().string()});
  return RunCommand(arguments, seconds(30));
}

Status TestCluster::IssueCertificate(const std::string& role, const std::string& name) const {
  if (std::filesystem::exists(certs() / name / "tls.crt")) return {};
  const CommandOutput made = Certs({"issue", "--role", role, "--name", name});
  if (made.exit_status == 0) return {};
  return {StatusCode::kInternal, "engramctl certs issue: " + made.out + made.err};
}

Status TestCluster::AddCertificate(const std::string& role, const std::string& name,
                                   std::vector<std::string>* argv) const {
  if (!options_.certs) return {};
  ENGRAM_RETURN_IF_ERROR(IssueCertificate(role, name));
  argv->insert(argv->end(), {"--certs", (certs() / name).string()});
  return {};
}

std::vector<std::string> FreeAddresses(int count) {
  boost::asio::io_context io;
  std::vector<boost::asio::ip::tcp::acceptor> held;
  std::vector<std::string> addresses;
  for (int i = 0; i < count; ++i) {
    held.emplace_back(io,
                      boost::asio::ip::tcp::endpoint(boost::asio::ip::address_v4::loopback(), 0));
    addresses.push_back("127.0.0.1:" + std::to_string(held.back().local_endpoint().port()));
  }
  return addresses;
}

HttpReply HttpCall(const std::string& address, const std::string& method, const std::string& target,
                   const std::string& body) {
  namespace http = boost::beast::http;
  try {
    boost::asio::io_context io;
    boost::asio::ip::tcp::resolver resolver(io);
    boost::beast::tcp_stream stream(io);
    const size_t colon = address.rfind(':');
    stream.connect(resolver.resolve(address.substr(0, colon), address.substr(colon + 1)));
    http::request<http::string_body> request{http::string_to_verb(method), target, 11};
    request.set(http::field::host, address);
    request.body() = body;
    request.prepare_payload();
    http::write(stream, request);
    boost::beast::flat_buffer buffer;
    http::response<http::string_body> response;
    http::read(stream, buffer, response);
    return {static_cast<int>(response.result_int()), response.body()};
  } catch (const std::exception& error) {
    return {0, error.what()};
  }
}

}  // namespace engram::test
