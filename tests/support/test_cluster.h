// A whole cluster of real processes on loopback: one coordinator or several, some memory nodes, a
// small model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"
#include "tests/support/child_process.h"

namespace engram::test {

struct ClusterOptions {
  int nodes = 3;
  int replicas = 1;
  std::string transport = "tcp";  // of the nodes: tcp, shm or auto
  std::string one_sided = "off";
  std::string variant = "v41";
  int base_rows = 2000;                     // per column, before primes
  int kv_heads = 2;                         // of the model, with twice as many heads
  std::string node_memory = "1GiB";         // of each
  std::vector<std::string> node_arguments;  // added to every node's command line
  // With "etcd://..." there may be several coordinators; empty = one, with a SQLite file.
  std::string store;
  int coordinators = 1;
  std::vector<std::string> coordinator_arguments;  // added to every coordinator's command line
  // Everything under mutual TLS, with certificates that engramctl certs makes in certs().
  bool certs = false;
};

// Everything is killed and removed with it. Thread-compatible.
class TestCluster {
 public:
  // Makes the model, starts the processes, creates a version, waits until it is ready.
  // The error holds the end of the log of the process at fault.
  [[nodiscard]] static Result<std::unique_ptr<TestCluster>> Start(const ClusterOptions& options);

  // Of every coordinator, with commas between.
  [[nodiscard]] std::string coordinator_address() const;
  [[nodiscard]] const std::string& coordinator_address(int i) const {
    return coordinators_[static_cast<size_t>(i)].address;
  }
  [[nodiscard]] std::filesystem::path model_dir() const { return scratch_.path() / "model"; }
  [[nodiscard]] std::filesystem::path scratch() const { return scratch_.path(); }
  // c0, c1, ... of coordinators, m0, m1, ... of nodes, "reader" and "operator".
  [[nodiscard]] std::filesystem::path certs() const { return scratch_.path() / "certs"; }
  [[nodiscard]] int node_count() const { return static_cast<int>(nodes_.size()); }
  [[nodiscard]] ChildProcess& node(int i) { return nodes_[static_cast<size_t>(i)].process; }
  [[nodiscard]] int coordinator_count() const { return static_cast<int>(coordinators_.size()); }
  [[nodiscard]] ChildProcess& coordinator(int i = 0) {
    return coordinators_[static_cast<size_t>(i)].process;
  }
  [[nodiscard]] std::string coordinator_http(int i = 0) const {
    return coordinators_[static_cast<size_t>(i)].http_address;
  }
  [[nodiscard]] std::string node_address(int i) const {
    return nodes_[static_cast<size_t>(i)].data_address;
  }
  [[nodiscard]] std::string node_http(int i) const {
    return nodes_[static_cast<size_t>(i)].http_address;
  }
  [[nodiscard]] std::string NodeLog(int i) const;
  [[nodiscard]] std::string CoordinatorLog(int i = 0) const;

  // One node more, which nobody knew before.
  [[nodiscard]] Status AddNode();
  // Starts a node again at its old data port, after its process ended.
  [[nodiscard]] Status RestartNode(int i);
  // Starts the coordinator again at its old port and state, after its process ended.
  [[nodiscard]] Status RestartCoordinator(int i = 0);
  // Until engramctl status says that every slot has a ready replica.
  [[nodiscard]] Status WaitReady();
  // Until nothing is to move any more, and every replica is there.
  [[nodiscard]] Status WaitSettled();
  // engramctl with these arguments; --coordinator is added, and --certs of the operator or of
  // `holder`.
  [[nodiscard]] CommandOutput Ctl(std::vector<std::string> arguments,
                                  const std::string& holder = "operator") const;
  // engramctl certs with these arguments; --dir is added.
  [[nodiscard]] CommandOutput Certs(std::vector<std::string> arguments) const;
  // Makes certs()/NAME.
  [[nodiscard]] Status IssueCertificate(const std::string& role, const std::string& name) const;

 private:
  struct Node {
    ChildProcess process;
    std::string data_address;
    std::string http_address;
  };
  explicit TestCluster(ClusterOptions options) : options_(std::move(options)) {}
  struct Coordinator {
    ChildProcess process;
    std::string address;
    std::string http_address;
  };
  [[nodiscard]] Status StartCoordinator(int i, const std::string& listen);
  [[nodiscard]] Status StartNode(int i, const std::string& listen);
  // --certs, where certificates are wanted, of one that is made when it is missing.
  [[nodiscard]] Status AddCertificate(const std::string& role, const std::string& name,
                                      std::vector<std::string>* argv) const;
  // Until it holds of every version in engramctl status.
  [[nodiscard]] Status WaitFor(const std::string& otherwise,
                               const std::function<bool(const nlohmann::json&)>& holds);

  ClusterOptions options_;
  ScratchDir scratch_;
  std::vector<Coordinator> coordinators_;
  std::vector<Node> nodes_;
};

// Makes a small model with tests/data/tiny_tokenizer.json.
[[nodiscard]] Status MakeTinyModel(const std::filesystem::path& dir, const std::string& variant,
                                   int base_rows, int seed, int kv_heads = 2);

// Waits for the JSON that a program writes to its --announce-file once it listens.
[[nodiscard]] Result<nlohmann::json> AwaitAnnouncement(const std::filesystem::path& file,
                                                       ChildProcess& process,
                                                       const std::filesystem::path& log);

// Loopback addresses with ports that nobody has at the moment, for programs that must be told them
// before they start.
[[nodiscard]] std::vector<std::string> FreeAddresses(int count);

struct HttpReply {
  int status = 0;
  std::string body;
};
// One request to "host:port"; status 0 when nobody answers. Blocks.
[[nodiscard]] HttpReply HttpCall(const std::string& address, const std::string& method,
                                 const std::string& target, const std::string& body = "");

}  // namespace engram::test
