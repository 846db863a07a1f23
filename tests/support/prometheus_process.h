// A real Prometheus on loopback that scrapes the processes of a test.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"
#include "tests/support/child_process.h"

namespace engram::test {

struct ScrapeTarget {
  std::string job;
  std::string address;           // "host:port"
  std::string server_name = {};  // over HTTPS: whom its certificate is for; empty: the host
};

// Killed, and its data removed, with the object. Thread-compatible.
class PrometheusProcess {
 public:
  // The binaries; empty where they are not installed (deploy/install-deps does).
  [[nodiscard]] static std::string Program();
  [[nodiscard]] static std::string Promtool();
  // Starts it and waits until it answers. It scrapes every target once a second.
  //   certs  folder with ca.crt, tls.crt and tls.key: it scrapes over HTTPS and shows these
  [[nodiscard]] static Result<std::unique_ptr<PrometheusProcess>> Start(
      const std::vector<ScrapeTarget>& targets, const std::filesystem::path& certs = {});

  // One sample of what a query gave.
  struct Sample {
    nlohmann::json labels;
    double value = 0;
  };
  // What the expression is now. ERRORS: kInvalidArgument with Prometheus' words, kUnavailable.
  [[nodiscard]] Result<std::vector<Sample>> Query(const std::string& expression) const;
  // The value of an expression that gives one sample. ERRORS: also kNotFound where it gives none or
  // several.
  [[nodiscard]] Result<double> Value(const std::string& expression) const;
  // "data" of a page under /api/v1/. ERRORS: as Query's.
  [[nodiscard]] Result<nlohmann::json> Get(const std::string& page) const;

 private:
  PrometheusProcess() = default;

  ScratchDir scratch_;
  std::string address_;
  ChildProcess process_;
};

}  // namespace engram::test
