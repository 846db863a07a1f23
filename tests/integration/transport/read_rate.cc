// How fast rows come from a row_node: one session, closed loop. Prints one line.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <vector>

#include <CLI/CLI.hpp>
#include <sys/resource.h>

#include "engram/transport/ucx/ucx_transport.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;

double CpuSeconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

class RateEvents final : public ReaderEvents {
 public:
  RateEvents(const TableLayout& layout, bool verify)
      : layout_(layout), verify_(verify), staging_(size_t{kReadRowsMax} * layout.row_stride()) {}
  std::vector<RowAddress>* rows = nullptr;  // of the batch; a read's tag = its first row's place
  bool open = false;
  bool closed = false;
  uint64_t done = 0;
  uint64_t failed = 0;
  uint64_t wrong = 0;

  void OnOpen(SessionId, const SessionInfo& info) override {
    open = true;
    std::printf("%s: %s\n", std::string(ReadWayName(info.way)).c_str(), info.reason.c_str());
  }
  void OnClosed(SessionId, const Status& why) override {
    closed = true;
    std::cerr << why.ToString() << "\n";
  }
  void OnRows(uint64_t tag, const RowChunk& chunk) override {
    if (!verify_) return;
    const uint32_t stride = layout_.row_stride();
    for (uint32_t i = 0; i < chunk.count; ++i) {
      const std::byte* const row = chunk.rows + size_t{i} * stride;
      const RowPlace place = layout_.Place((*rows)[tag + chunk.first + i]);
      const int32_t layer = layout_.spec().hash.layer_ids[static_cast<size_t>(place.layer_index)];
      wrong += !VerifyRow(TableVersion(7), layer, place.row, row, layout_.row_bytes());
      std::copy(row, row + layout_.row_bytes(),
                staging_.data() + size_t{(chunk.first + i) % kReadRowsMax} * stride);
    }
  }
  void OnReadDone(uint64_t, StatusCode status) override {
    ++done;
    failed += status != StatusCode::kOk;
  }
  void OnEpoch(SessionId, Epoch) override {}
  void OnBusy(SessionId, Duration) override {}

 private:
  const TableLayout& layout_;
  const bool verify_;
  std::vector<std::byte> staging_;
};

int Run(int argc, char** argv) {
  UcxTransportOptions options;
  std::string address;
  std::string way = "auto";
  int64_t column_rows = 2000;
  uint32_t rows_per_batch = 12288;
  uint32_t reads_per_batch = 3;
  uint32_t batches = 200;
  int64_t spin_us = 50;
  bool verify = false;
  CLI::App app("How fast rows come from a row_node");
  app.add_option("--address", address, "host:port of the node")->required();
  app.add_option("--tls", options.tls, "auto, tcp or shm");
  app.add_option("--one-sided", options.one_sided, "off, rdma or shm");
  app.add_option("--way", way, "auto, gather, mapped or one-sided");
  app.add_option("--column-rows", column_rows, "as the node's");
  app.add_option("--rows", rows_per_batch, "rows in a batch");
  app.add_option("--reads", reads_per_batch, "reads they are split into");
  app.add_option("--batches", batches, "batches");
  app.add_option("--spin-us", spin_us, "how long the reader looks for work before it sleeps");
  app.add_flag("--verify", verify, "check the CRC of every row and copy it out");
  CLI11_PARSE(app, argc, argv);
  options.spin_max = std::chrono::microseconds(spin_us);
  options.way = ParseReadWay(way).value();

  const auto layout = test::SmallLayout(column_rows);
  auto transport = UcxTransport::Create(options);
  if (!transport.has_value()) {
    std::cerr << transport.error().ToString() << "\n";
    return 1;
  }
  RateEvents events(*layout, verify);
  auto reader = (*transport)->CreateReader(&events).value();
  const SessionId session = reader->Open(test::TargetOf(address, TableVersion(7), *layout));
  const auto drive = [&](const auto& until) {
    while (!until() && !events.closed) {
      if (!reader->Progress()) reader->Wait(Clock::now() + std::chrono::seconds(1), nullptr);
    }
  };
  drive([&] { return events.open; });

  std::vector<double> micros;
  std::vector<RowAddress> rows;
  const uint32_t warm_up = std::min(batches, 20u);
  Clock::time_point start;
  double cpu = 0;
  Duration read_time{};
  const uint32_t per_read = (rows_per_batch + reads_per_batch - 1) / reads_per_batch;
  for (uint32_t b = 0; b < batches + warm_up && !events.closed; ++b) {
    rows = test::SomeRows(*layout, rows_per_batch, b + 1);
    events.rows = &rows;
    if (b == warm_up) cpu = CpuSeconds();
    start = Clock::now();
    const uint64_t target = events.done + reads_per_batch;
    for (uint32_t first = 0; first < rows.size(); first += per_read) {
      const size_t count = std::min<size_t>(per_read, rows.size() - first);
      if (reader->Post(session, first, {rows.data() + first, count}, MonotonicTime::max()) !=
          StatusCode::kOk)
        return 1;
    }
    drive([&] { return events.done >= target; });
    const Duration took = Clock::now() - start;
    if (b < warm_up) continue;
    read_time += took;
    micros.push_back(
        1e-3 *
        static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(took).count()));
  }
  if (events.closed || micros.empty()) return 1;
  std::sort(micros.begin(), micros.end());
  const double seconds = std::chrono::duration<double>(read_time).count();
  std::printf(
      "tls %s rows %u in %u reads: %.2f M rows/s, p50 %.0f us, p99 %.0f us, "
      "reader cpu %.2f s of %.2f s, failed %lu, wrong %lu\n",
      options.tls.c_str(), rows_per_batch, reads_per_batch,
      1e-6 * static_cast<double>(micros.size()) * rows_per_batch / seconds,
      micros[micros.size() / 2], micros[micros.size() * 99 / 100], CpuSeconds() - cpu, seconds,
      static_cast<unsigned long>(events.failed), static_cast<unsigned long>(events.wrong));
  return events.failed + events.wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) { return engram::Run(argc, argv); }
