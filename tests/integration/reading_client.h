// A client of a cluster that checks every row it gets against the checkpoint.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "engram/security/security_flags.h"
#include "tests/support/host_landing.h"
#include "tests/support/test_cluster.h"

namespace engram::test {

struct ReadTally {
  uint64_t batches_ok = 0;
  uint64_t batches_failed = 0;
  uint64_t rows_right = 0;  // delivered, and compared byte by byte
  uint64_t rows_wrong = 0;  // delivered, but not what the checkpoint holds
  // Batches by the checkpoint whose rows they had, all of them: the cluster's, then other_models'.
  std::vector<uint64_t> batches_of;
  std::vector<Status> failures;  // the first hundred
  double last_batch_ms = 0;      // from before its Prefetch to after its last Await, or its error
  double longest_batch_ms = 0;
};

// Reads random tokens' rows remotely and from the checkpoint (`local`), and compares them byte by
// byte. Thread-compatible.
class ReadingClient {
 public:
  struct Options {
    std::string transport = "tcp";
    std::string way = "auto";
    std::string one_sided = "off";
    uint32_t tokens_per_batch = 16;
    int deadline_ms = 2000;
    uint64_t seed = 1;
    // Checkpoints of the same shape: a batch may be theirs too, the whole of it.
    std::vector<std::filesystem::path> other_models;
    std::string zone;                // ConnectOptions
    HostLanding* landing = nullptr;  // outlives the client
    SecurityFlags security;
  };
  //   coordinators  "host:port", with commas between
  //   model         the checkpoint that the cluster serves
  [[nodiscard]] static Result<std::unique_ptr<ReadingClient>> Create(
      const std::string& coordinators, const std::filesystem::path& model, const Options& options);
  [[nodiscard]] static Result<std::unique_ptr<ReadingClient>> Create(const TestCluster& cluster,
                                                                     const Options& options) {
    return Create(cluster.coordinator_address(), cluster.model_dir(), options);
  }
  // Reads `batches` batches and compares every row of those that succeed.
  void Read(int batches, ReadTally* tally);
  // The same again and again until none of the batches failed, or for `patience`. What the last
  // time gave, with the wrong rows of all.
  [[nodiscard]] ReadTally ReadUntilAllCome(int batches, std::chrono::seconds patience);
  [[nodiscard]] RowSource& remote() { return *remote_; }

 private:
  explicit ReadingClient(const Options& options) : options_(options), random_(options.seed) {}
  [[nodiscard]] Status ReadBatch(ReadTally* tally);
  struct Compared {
    uint64_t right = 0;
    uint64_t wrong = 0;
  };
  // Every row of `got` ([layers]) with what `local` has for `run`.
  [[nodiscard]] static Compared Compare(const std::vector<LayerRows>& got, RowSource& local,
                                        const TokenRun& run);

  Options options_;
  std::mt19937_64 random_;
  std::unique_ptr<RowSource> remote_;
  std::vector<std::unique_ptr<RowSource>> locals_;  // the cluster's, then other_models'
  size_t last_of_ = 0;  // of whose checkpoint the last batch was: the next one's is compared first
  int32_t vocabulary_size_ = 0;
};

}  // namespace engram::test
