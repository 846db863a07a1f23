// engram-coordinator: places the slots of every table version and tells everybody where they are.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "coordinator/coordinator_service.h"
#include "coordinator/sqlite_store.h"

namespace engram {
namespace {

struct Flags {
  std::string listen = "127.0.0.1:7000";
  std::string http = "127.0.0.1:7001";
  std::string state;
  std::string announce_file;
  int heartbeat_ms = 1000;
  int down_after_ms = 3000;
};

void Describe(CLI::App& app, Flags& flags) {
  app.description(
      "Knows the memory nodes, places the slots of every table version on them, and tells clients\n"
      "where they are. Reads go on while it is down; changes wait for it. Its state is one SQLite\n"
      "file: copy that file and you have a backup.");
  app.footer(
      "Example:\n"
      "  engram-coordinator --listen 0.0.0.0:7000 --http 0.0.0.0:7001 \\\n"
      "      --state /var/lib/engram/state.sqlite\n"
      "There is no authentication yet: listen inside a trusted network only.");
  app.add_option("--listen", flags.listen,
                 "Where memory nodes, clients and engramctl connect (port 0 = any free one)")
      ->capture_default_str();
  app.add_option("--http", flags.http, "Where /healthz, /readyz, /metrics and /status are")
      ->capture_default_str();
  app.add_option("--state", flags.state, "The SQLite file to keep state in; made when missing")
      ->required();
  app.add_option("--heartbeat-ms", flags.heartbeat_ms, "How often memory nodes are heard of")
      ->capture_default_str()
      ->check(CLI::Range(50, 60000));
  app.add_option("--down-after-ms", flags.down_after_ms,
                 "A memory node that is silent for this long is called down; at least twice "
                 "--heartbeat-ms")
      ->capture_default_str()
      ->check(CLI::Range(100, 600000));
  app.add_option("--announce-file", flags.announce_file,
                 "Write {\"rpc\":\"host:port\",\"http\":\"host:port\"} here once listening");
}

// Whole or not at all: readers wait for the file to appear.
Status Announce(const std::string& file, const nlohmann::json& what) {
  const std::string partial = file + ".partial";
  {
    std::ofstream out(partial);
    out << what.dump() << "\n";
    if (!out.flush()) return Status(StatusCode::kIo, "cannot write " + partial);
  }
  std::error_code error;
  std::filesystem::rename(partial, file, error);
  return error ? Status(StatusCode::kIo, "cannot write " + file + ": " + error.message())
               : Status();
}

Status Run(const Flags& flags) {
  if (flags.down_after_ms < 2 * flags.heartbeat_ms) {
    return Status(StatusCode::kInvalidArgument,
                  "--down-after-ms must be at least twice --heartbeat-ms, or one late heartbeat "
                  "calls a node down");
  }
  auto store = SqliteStore::Open(flags.state);
  if (!store.has_value()) return store.error();

  boost::asio::io_context io(1);
  CoordinatorService::Options options;
  options.cluster.heartbeat_interval = std::chrono::milliseconds(flags.heartbeat_ms);
  options.cluster.down_after = std::chrono::milliseconds(flags.down_after_ms);
  auto service = CoordinatorService::Create(
      io.get_executor(), std::move(*store), options, [](const Status& status) {
        // Memory may be ahead of the disk now: only what is on disk may be seen.
        spdlog::critical("cannot keep state, ending: {}", status.ToString());
        spdlog::shutdown();
        _exit(1);
      });
  if (!service.has_value()) return service.error();

  auto rpc = RpcServer::Create(io.get_executor(), {.listen_address = flags.listen},
                               [&](const RpcPeer& peer, std::string_view method, std::string body) {
                                 return (*service)->Handle(peer, method, std::move(body));
                               });
  if (!rpc.has_value()) return rpc.error();
  auto http =
      HttpServer::Create(io.get_executor(), {.listen_address = flags.http}, (*service)->Pages());
  if (!http.has_value()) return http.error();
  (*service)->StartTicking();

  boost::asio::signal_set signals(io, SIGINT, SIGTERM);
  signals.async_wait([&](const boost::system::error_code& error, int signal) {
    if (error) return;
    spdlog::info("signal {}: ending", signal);
    (*service)->Stop();
    io.stop();
  });
  spdlog::info("listening on {}, HTTP on {}", (*rpc)->address(), (*http)->address());
  if (!flags.announce_file.empty()) {
    ENGRAM_RETURN_IF_ERROR(
        Announce(flags.announce_file, {{"rpc", (*rpc)->address()}, {"http", (*http)->address()}}));
  }
  io.run();
  return Status();
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("coordinator"));
  CLI::App app;
  engram::Flags flags;
  engram::Describe(app, flags);
  CLI11_PARSE(app, argc, argv);
  const engram::Status status = engram::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "engram-coordinator: %s\n", status.ToString().c_str());
  return 1;
}
