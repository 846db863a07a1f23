// A real etcd on loopback, of one member or several.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "tests/support/child_process.h"

namespace engram::test {

// Killed, and its data removed, with the object. Thread-compatible.
class EtcdProcess {
 public:
  // The etcd binary; empty where it is not installed (deploy/install-deps does).
  [[nodiscard]] static std::string Program();
  // Starts `members` processes and waits until each answers. `certs` not empty: clients come under
  // mutual TLS; the folder has etcd's ca.crt, tls.crt and tls.key.
  [[nodiscard]] static Result<std::unique_ptr<EtcdProcess>> Start(
      int members = 1, const std::filesystem::path& certs = {});

  // "host:port" of each member, for clients.
  [[nodiscard]] const std::vector<std::string>& endpoints() const { return endpoints_; }
  // "etcd://.../prefix" or "https://.../prefix", for --store.
  [[nodiscard]] std::string StoreAddress(const std::string& prefix) const;
  [[nodiscard]] ChildProcess& member(int i) { return members_[static_cast<size_t>(i)]; }
  // Starts a member again on its data and ports, after its process ended.
  [[nodiscard]] Status RestartMember(int i);

 private:
  EtcdProcess() = default;
  [[nodiscard]] Status WaitHealthy(int i);
  [[nodiscard]] std::string Log(int i) const;

  ScratchDir scratch_;
  bool tls_ = false;
  std::vector<std::string> endpoints_;
  std::vector<std::string> health_addresses_;
  std::vector<std::vector<std::string>> commands_;
  std::vector<ChildProcess> members_;
};

}  // namespace engram::test
