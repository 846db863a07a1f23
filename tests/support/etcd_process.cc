#include "tests/support/etcd_process.h"

#include <chrono>
#include <thread>
#include <utility>

#include <unistd.h>

#include "tests/support/test_cluster.h"

namespace engram::test {
std::string EtcdProcess::Program() {
  for (const char* path : {"/usr/bin/etcd", "/usr/local/bin/etcd"}) {
    if (access(path, X_OK) == 0) return path;
  }
  return {};
}

Result<std::unique_ptr<EtcdProcess>> EtcdProcess::Start(int members,
                                                        const std::filesystem::path& certs) {
  std::unique_ptr<EtcdProcess> etcd(new EtcdProcess());
  etcd->tls_ = !certs.empty();
  const std::vector<std::string> addresses = FreeAddresses(3 * members);
  std::string cluster;
  for (int i = 0; i < members; ++i) {
    const auto at = static_cast<size_t>(i);
    cluster += (i > 0 ? "," : "") + ("e" + std::to_string(i)) + "=http://" + addresses[3 * at + 1];
  }
  for (int i = 0; i < members; ++i) {
    const auto at = static_cast<size_t>(i);
    const std::string name = "e" + std::to_string(i);
    const std::string client = (etcd->tls_ ? "https://" : "http://") + addresses[3 * at];
    const std::string peer = "http://" + addresses[3 * at + 1];
    etcd->endpoints_.push_back(addresses[3 * at]);
    etcd->health_addresses_.push_back(addresses[3 * at + 2]);
    etcd->commands_.push_back(
        {Program(), "--name", name, "--data-dir", (etcd->scratch_.path() / name).string(),
         "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls",
         peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster,
         "--listen-metrics-urls", "http://" + addresses[3 * at + 2], "--log-level", "warn"});
    if (!etcd->tls_) continue;
    etcd->commands_.back().insert(
        etcd->commands_.back().end(),
        {"--client-cert-auth", "--trusted-ca-file", (certs / "ca.crt").string(), "--cert-file",
         (certs / "tls.crt").string(), "--key-file", (certs / "tls.key").string()});
  }
  etcd->members_.resize(static_cast<size_t>(members));
  for (int i = 0; i < members; ++i) {
    const auto at = static_cast<size_t>(i);
    ENGRAM_ASSIGN_OR_RETURN(
        etcd->members_[at],
        ChildProcess::Start(etcd->commands_[at],
                            etcd->scratch_.path() / ("e" + std::to_string(i) + ".log")));
  }
  for (int i = 0; i < members; ++i) ENGRAM_TRY(etcd->WaitHealthy(i));
  return etcd;
}

std::string EtcdProcess::StoreAddress(const std::string& prefix) const {
  std::string list;
  for (const std::string& endpoint : endpoints_) list += (list.empty() ? "" : ",") + endpoint;
  return (tls_ ? "https://" : "etcd://") + list + "/" + prefix;
}

Status EtcdProcess::RestartMember(int i) {
  const auto at = static_cast<size_t>(i);
  auto started =
      ChildProcess::Start(commands_[at], scratch_.path() / ("e" + std::to_string(i) + ".log"));
  if (!started.has_value()) return started.error();
  members_[at] = std::move(*started);
  return WaitHealthy(i);
}

Status EtcdProcess::WaitHealthy(int i) {
  const auto at = static_cast<size_t>(i);
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (std::chrono::steady_clock::now() < until) {
    const HttpReply reply = HttpCall(health_addresses_[at], "GET", "/health");
    if (reply.status == 200 && reply.body.find("true") != std::string::npos) return {};
    if (!members_[at].running()) {
      return {StatusCode::kUnavailable, "etcd ended at its start: " + Log(i)};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return {StatusCode::kDeadlineExceeded, "etcd is not healthy: " + Log(i)};
}

std::string EtcdProcess::Log(int i) const {
  const std::string text = ReadFile(scratch_.path() / ("e" + std::to_string(i) + ".log"));
  return text.size() <= 2000 ? text : text.substr(text.size() - 2000);
}

}  // namespace engram::test
