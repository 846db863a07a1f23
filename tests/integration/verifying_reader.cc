// engram-verifying-reader: reads a cluster and compares every row with the checkpoint, until its
// standard input ends. tests/chaos runs it.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "tests/integration/reading_client.h"

namespace engram::test {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kLineEvery{100};

// What happened since the line before, as one JSON line.
class Report {
 public:
  void Add(const ReadTally& tally) { batch_ms_.push_back(tally.last_batch_ms); }
  [[nodiscard]] bool due() const { return Clock::now() - last_ >= kLineEvery; }
  void Print(const RowSource& rows, ReadTally* tally) {
    last_ = Clock::now();
    nlohmann::ordered_json line;
    line["t"] = std::chrono::duration<double>(last_.time_since_epoch()).count();
    line["rows_verified"] = tally->rows_right;
    line["rows_wrong"] = tally->rows_wrong;
    line["batches"] = tally->batches_ok;
    line["batches_failed"] = tally->batches_failed;
    line["batches_of"] = tally->batches_of;
    line["batch_ms"] = batch_ms_;
    const RowSourceStats stats = rows.Stats();
    line["crc_wrong"] = stats.rows_wrong;
    line["retried"] = stats.reads_retried;
    line["hedged"] = stats.reads_hedged;
    line["errors"] = nlohmann::json::array();
    for (const Status& failure : tally->failures) line["errors"].push_back(failure.ToString());
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
    *tally = {};
    batch_ms_.clear();
  }

 private:
  Clock::time_point last_ = Clock::now();
  std::vector<double> batch_ms_;
};

// Lines on standard input: batches a second to start, 0 = as many as can be. Its end stops all.
void TakeOrders(std::atomic<double>* rate, std::atomic<bool>* stop) {
  double wanted = 0;
  while (std::cin >> wanted) rate->store(wanted);
  stop->store(true);
}

void Read(ReadingClient& client) {
  std::atomic<double> rate{0};
  std::atomic<bool> stop{false};
  std::thread orders(TakeOrders, &rate, &stop);
  Report report;
  ReadTally tally;
  Clock::time_point next = Clock::now();
  while (!stop.load()) {
    client.Read(1, &tally);
    report.Add(tally);
    if (report.due()) report.Print(client.remote(), &tally);
    const double now_wanted = rate.load();
    if (now_wanted <= 0) continue;
    // What a stall left undone is not made up for: that would measure the reader's own burst.
    next += std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(1.0 / now_wanted));
    if (next < Clock::now()) next = Clock::now();
    std::this_thread::sleep_until(next);
  }
  report.Print(client.remote(), &tally);
  orders.join();
}

}  // namespace
}  // namespace engram::test

int main(int argc, char** argv) {
  using engram::test::ReadingClient;
  CLI::App app(
      "Reads random tokens' rows from a cluster and compares every one with the checkpoint, until\n"
      "standard input ends. Prints a line of JSON ten times a second: what was read since the "
      "line\n"
      "before. A line of input is the batches to start a second; 0 = as many as can be.");
  ReadingClient::Options options;
  std::string coordinators;
  std::vector<std::string> models;
  app.add_option("--coordinator", coordinators, "HOST:PORT,...")->required();
  app.add_option("--model", models,
                 "Checkpoint folders of one shape: a batch must be of one of them, whole")
      ->required();
  app.add_option("--tokens", options.tokens_per_batch, "of a batch")->capture_default_str();
  app.add_option("--deadline-ms", options.deadline_ms, "of a batch")->capture_default_str();
  app.add_option("--transport", options.transport, "tcp, shm or auto")->capture_default_str();
  app.add_option("--way", options.way, "auto, gather, mapped or one-sided")->capture_default_str();
  app.add_option("--zone", options.zone, "of this host");
  AddSecurityFlags(&app, &options.security);
  app.add_option("--seed", options.seed, "of the tokens")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  spdlog::set_default_logger(spdlog::stderr_color_mt("reader"));  // the lines alone go to stdout
  options.other_models.assign(models.begin() + 1, models.end());
  auto client = ReadingClient::Create(coordinators, models.front(), options);
  if (!client.has_value()) {
    std::fprintf(stderr, "engram-verifying-reader: %s\n", client.error().ToString().c_str());
    return 1;
  }
  engram::test::Read(**client);
  return 0;
}
