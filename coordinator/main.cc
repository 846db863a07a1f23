// engram-coordinator: places the slots of every table version and tells everybody where they are.
#include <climits>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "coordinator/coordinator_service.h"
#include "coordinator/store_flags.h"
#include "engram/base/descriptor_limit.h"
#include "engram/base/privileges.h"
#include "engram/rpc/host_port.h"
#include "engram/security/security_flags.h"

namespace engram {
namespace {

struct Flags {
  std::string listen = "127.0.0.1:7000";
  std::string http = "127.0.0.1:7001";
  StoreFlags store;
  std::string advertise;
  std::string announce_file;
  int heartbeat_ms = 1000;
  int down_after_ms = 3000;
  int lost_after_ms = 60'000;
  uint64_t copy_rate = 256ull << 20;
  uint32_t copies = 512;
  SecurityFlags security;
  std::string audit_log;
  int token_lifetime_s = 3600;
};

void Describe(CLI::App& app, Flags& flags) {
  app.description(
      "Knows the memory nodes, places the slots of every table version on them, and tells clients\n"
      "where they are. Reads go on while it is down; changes wait for it.\n"
      "One coordinator keeps its state in one SQLite file: stop it and copy that file, and you "
      "have a backup.\n"
      "Several keep it in etcd, which also decides which of them leads: the others answer what "
      "they\n"
      "can, name the leader, and one of them takes over when it is lost.");
  app.footer(
      "Example:\n"
      "  engram-coordinator --listen 0.0.0.0:7000 --http 0.0.0.0:7001 \\\n"
      "      --state /var/lib/engram/state.sqlite\n"
      "Or, on three hosts c0, c1, c2 with an etcd (3.4 or later) of three members e0, e1, e2:\n"
      "  engram-coordinator --listen 0.0.0.0:7000 --advertise c0:7000 --http 0.0.0.0:7001 \\\n"
      "      --store https://e0:2379,e1:2379,e2:2379/engram --etcd-certs etcd-certs/c0\n"
      "and give nodes and clients --coordinator c0:7000,c1:7000,c2:7000.\n"
      "With certificates (engramctl certs init; certs issue --role coordinator --name c0):\n"
      "  engram-coordinator --certs certs/c0 --listen 0.0.0.0:7000 --http 0.0.0.0:7001 \\\n"
      "      --state /var/lib/engram/state.sqlite");
  AddSecurityFlags(&app, &flags.security);
  AddAuditFlag(&app, &flags.audit_log);
  app.add_option("--token-lifetime-s", flags.token_lifetime_s,
                 "With --certs: how long a reader may read before it needs the coordinator's word "
                 "again. It asks at a quarter of it; a cluster whose coordinators are all away is "
                 "read for so long at most")
      ->capture_default_str()
      ->check(CLI::Range(4, 7 * 86'400))
      ->group("Security");
  app.add_option("--listen", flags.listen,
                 "Where memory nodes, clients and engramctl connect (port 0 = any free one)")
      ->capture_default_str();
  app.add_option("--http", flags.http, "Where /healthz, /readyz, /metrics and /status are")
      ->capture_default_str();
  AddStoreFlags(&app, &flags.store);
  app.add_option(
      "--advertise", flags.advertise,
      "HOST:PORT that the others tell callers while this one leads. Default: the address "
      "listened on, with this machine's name where that is 0.0.0.0");
  app.add_option("--heartbeat-ms", flags.heartbeat_ms, "How often memory nodes are heard of")
      ->capture_default_str()
      ->check(CLI::Range(50, 60000));
  app.add_option("--lost-after-ms", flags.lost_after_ms,
                 "A node that was silent for so long is lost: its slots are copied again elsewhere")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400'000));
  app.add_option(
         "--copy-rate", flags.copy_rate,
         "Bytes a second at which slots may arrive at one node, such as 256MiB; 0 = no bound")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(true));
  app.add_option("--copies", flags.copies,
                 "Slots that one node is told to copy at a time; as many again for repairs")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
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

// "host:port" that others can reach, for the address listened on.
Result<std::string> Advertised(const Flags& flags, const std::string& listened) {
  if (!flags.advertise.empty()) {
    auto parsed = ParseHostPort(flags.advertise);
    if (!parsed.has_value()) return Error(parsed.error().WithContext("--advertise"));
    return flags.advertise;
  }
  const auto listen = ParseHostPort(flags.listen);
  if (listen.has_value() && listen->host != "0.0.0.0" && listen->host != "::") return listened;
  char name[HOST_NAME_MAX + 1] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return listened;
  return name + listened.substr(listened.rfind(':'));
}

Status Run(const Flags& flags) {
  ENGRAM_RETURN_IF_ERROR(DropPrivileges());
  KeepNewFilesPrivate();
  if (const std::string root = RootWarning(); !root.empty()) spdlog::warn(root);
  if (flags.lost_after_ms < flags.down_after_ms) {
    return {StatusCode::kInvalidArgument, "--lost-after-ms must be at least --down-after-ms, " +
                                              std::to_string(flags.down_after_ms) +
                                              ": a node is down before it is lost"};
  }
  if (flags.down_after_ms < 2 * flags.heartbeat_ms) {
    return Status(StatusCode::kInvalidArgument,
                  "--down-after-ms must be at least twice --heartbeat-ms, or one late heartbeat "
                  "calls a node down");
  }
  const auto security = OpenServerSecurity(flags.security, Role::kCoordinator);
  if (!security.has_value()) return security.error();
  const auto audit = OpenAuditLog(flags.audit_log);
  if (!audit.has_value()) return audit.error();
  std::shared_ptr<TlsIdentity> etcd_identity;
  auto store = OpenStore(flags.store, flags.security, &etcd_identity);
  if (!store.has_value()) return store.error();

  boost::asio::io_context io(1);
  CoordinatorService::Options options;
  options.cluster.heartbeat_interval = std::chrono::milliseconds(flags.heartbeat_ms);
  options.cluster.down_after = std::chrono::milliseconds(flags.down_after_ms);
  options.cluster.lost_after = std::chrono::milliseconds(flags.lost_after_ms);
  options.cluster.copy_bytes_per_s_max = flags.copy_rate;
  options.cluster.incoming_slots_max = flags.copies;
  if (security->identity != nullptr) {
    options.token_lifetime = std::chrono::seconds(flags.token_lifetime_s);
  }
  options.certificates = CertificatesOf(*security);
  if (etcd_identity != nullptr) options.certificates.push_back({"etcd", etcd_identity});
  CoordinatorService service(io.get_executor(), *std::move(store), options,
                             [](const Status& status) {
                               // Memory may be ahead of the disk now: only what is on disk may be
                               // seen.
                               spdlog::critical("cannot keep state, ending: {}", status.ToString());
                               spdlog::shutdown();
                               _exit(1);
                             });
  // Nothing is answered before io runs, and then the state is there.
  auto rpc =
      RpcServer::Create(io.get_executor(),
                        {.listen_address = flags.listen,
                         .leader = [&service] { return service.leader(); },
                         .security = *security,
                         .audit = *audit,
                         .describe = CoordinatorService::Describe},
                        [&service](const RpcPeer& peer, std::string_view method, std::string body) {
                          return service.Handle(peer, method, std::move(body));
                        });
  if (!rpc.has_value()) return rpc.error();
  auto http = HttpServer::Create(
      io.get_executor(), {.listen_address = flags.http, .security = *security, .audit = *audit},
      service.Pages());
  if (!http.has_value()) return http.error();
  const auto advertised = Advertised(flags, (*rpc)->address());
  if (!advertised.has_value()) return advertised.error();
  ENGRAM_RETURN_IF_ERROR(service.Start(*advertised));
  service.StartTicking();

  boost::asio::signal_set signals(io, SIGINT, SIGTERM);
  signals.async_wait([&](const boost::system::error_code& error, int signal) {
    if (error) return;
    spdlog::info("signal {}: ending", signal);
    service.Stop();
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
  (void)engram::RaiseDescriptorLimit();
  const engram::Status status = engram::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "engram-coordinator: %s\n", status.ToString().c_str());
  return 1;
}
