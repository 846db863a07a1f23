// A memory node with made-up rows, for tests and measurements of the transport alone.
// Writes its address to a file once it serves; runs until it is killed.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "engram/transport/ucx/ucx_row_server.h"
#include "tests/unit/engram/transport/small_table.h"

int main(int argc, char** argv) {
  engram::UcxRowServerOptions options;
  options.listen_address = "127.0.0.1:0";
  options.incarnation = engram::Incarnation(static_cast<uint64_t>(::getpid()));
  int64_t column_rows = 2000;
  int64_t lease_ms = 2000;
  int64_t spin_us = 50;
  std::string address_file;
  CLI::App app("A memory node with made-up rows");
  app.add_option("--address-file", address_file, "where to write host:port")->required();
  app.add_option("--tls", options.tls, "auto, tcp or shm");
  app.add_option("--one-sided", options.one_sided, "off, rdma or shm");
  app.add_option("--threads", options.gather_threads, "gather threads");
  app.add_option("--column-rows", column_rows, "rows of each of the 8 columns");
  app.add_option("--lease-ms", lease_ms, "0 = none");
  app.add_option("--spin-us", spin_us, "how long a thread looks for work before it sleeps");
  CLI11_PARSE(app, argc, argv);
  options.lease = std::chrono::milliseconds(lease_ms);
  options.spin_max = std::chrono::microseconds(spin_us);

  auto server = engram::UcxRowServer::Create(options);
  if (!server.has_value()) {
    std::cerr << server.error().ToString() << "\n";
    return 1;
  }
  const auto layout = engram::test::SmallLayout(column_rows);
  (*server)->Serve(engram::test::FillSlots(**server, engram::TableVersion(7), layout,
                                           [](uint32_t) { return true; }));
  std::ofstream(address_file + ".part") << (*server)->address();
  std::rename((address_file + ".part").c_str(), address_file.c_str());
  while (true) ::pause();
}
