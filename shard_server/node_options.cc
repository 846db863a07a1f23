#include "shard_server/node_options.h"

#include <CLI/CLI.hpp>

#include "engram/rpc/host_port.h"

namespace engram {
namespace {

constexpr uint32_t kGatherThreadsMax = 64;
constexpr uint32_t kLeaseMsMax = 60000;
constexpr uint32_t kSpinUsMax = 1000000;
constexpr uint32_t kReleasePatienceMsMax = 3'600'000;
constexpr uint64_t kMemoryBytesMin = 1u << 20;
constexpr uint32_t kSessionsMax = 65536;
constexpr uint64_t kWaitingRowsMin = 1u << 14;
constexpr uint64_t kWaitingRowsMax = 1u << 30;

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}
bool IsAnyHost(const std::string& host) {
  return host.empty() || host == "0.0.0.0" || host == "::";
}

void AddOptions(CLI::App* app, NodeOptions* options) {
  app->add_option("--id", options->id,
                  "This node's name in the cluster: unique, and the same after every restart")
      ->required()
      ->group("Cluster");
  app->add_option("--zone", options->zone,
                  "Where it stands (rack, room, cloud zone): replicas go to different zones")
      ->group("Cluster");
  app->add_option(
         "--coordinator", options->coordinator,
         "HOST:PORT of engram-coordinator; several with commas between: the one that leads "
         "is found")
      ->required()
      ->group("Cluster");
  app->add_option("--listen", options->listen,
                  "HOST:PORT that readers open sessions on; port 0 = any free one")
      ->capture_default_str()
      ->group("Addresses");
  app->add_option("--advertise", options->advertise,
                  "Host that readers are told to connect to. Default: the host of --listen, or "
                  "this machine's name where that is 0.0.0.0")
      ->group("Addresses");
  app->add_option("--http", options->http,
                  "HOST:PORT of /healthz, /readyz and /metrics; port 0 = any free one")
      ->capture_default_str()
      ->group("Addresses");
  app->add_option("--announce-file", options->announce_file,
                  "Write {\"data\":..., \"http\":..., \"incarnation\":...} to this file once both "
                  "addresses listen; for scripts")
      ->group("Addresses");
  app->add_option("--memory", options->memory_bytes,
                  "Memory for table rows, such as 64GiB: what the coordinator may place here. "
                  "What does not fit is refused before a row is read. Leave 1 GiB beside it for "
                  "everything else")
      ->required()
      ->transform(CLI::AsSizeValue(true))
      ->group("Memory");
  app->add_option(
         "--scrub-rate", options->scrub_bytes_per_s,
         "Bytes a second, such as 64MiB, at which the rows held here are checked again and "
         "again; damaged ones are replaced from a replica or the checkpoint. 64 MiB/s passes over "
         "200 GiB in an hour. 0 = off: only what readers report is checked")
      ->default_str("64MiB")
      ->transform(CLI::AsSizeValue(true))
      ->group("Memory");
  app->add_option("--gather-threads", options->gather_threads,
                  "Threads that answer readers; they sleep when there is nothing to do. One "
                  "serves millions of rows a second")
      ->capture_default_str()
      ->check(CLI::Range(1u, kGatherThreadsMax))
      ->group("Reads");
  app->add_option("--spin-us", options->spin_us,
                  "How long a gather thread without work looks for some before it sleeps. Longer "
                  "than its readers' decode steps, on a node with a core to spare for each thread, "
                  "saves waking it every step")
      ->capture_default_str()
      ->check(CLI::Range(0u, kSpinUsMax))
      ->group("Reads");
  app->add_option("--sessions-max", options->sessions_max,
                  "Sessions of readers; each of their I/O threads has one for every table version. "
                  "One host may have half of them, two a third each, and so on")
      ->capture_default_str()
      ->check(CLI::Range(2u, kSessionsMax))
      ->group("Limits");
  app->add_option("--waiting-rows-max", options->waiting_rows_max,
                  "Rows of reads that may wait for their turn, of all readers together; a reader "
                  "may have as many as are still free, and is told to come back later with more. "
                  "A million is 8 MiB, and answered in some 0.2 s for every gather thread")
      ->capture_default_str()
      ->check(CLI::Range(kWaitingRowsMin, kWaitingRowsMax))
      ->group("Limits");
  app->add_option("--transport", options->transport,
                  "What rows travel over. tcp: between hosts; nothing is shared with readers on "
                  "this host. shm: readers on this host only. auto: whatever UCX finds, RDMA "
                  "included; or a UCX_TLS list")
      ->capture_default_str()
      ->group("Reads");
  app->add_option("--one-sided", options->one_sided,
                  "Let readers read this memory without its processor. rdma: by network cards, on "
                  "trusted networks only, for it answers any peer. shm: over shared memory, to "
                  "exercise the code")
      ->capture_default_str()
      ->check(CLI::IsMember({"off", "shm", "rdma"}))
      ->group("Reads");
  app->add_option("--lease-ms", options->lease_ms,
                  "How long a reader on this host, or a one-sided one, may use rows before it "
                  "asks again; 0 = such readers gather instead")
      ->capture_default_str()
      ->check(CLI::Range(0u, kLeaseMsMax))
      ->group("Reads");
  app->add_option("--release-patience-ms", options->release_patience_ms,
                  "How long a slot that moved away is served on for readers that did not take the "
                  "newer shard map")
      ->capture_default_str()
      ->check(CLI::Range(0u, kReleasePatienceMsMax))
      ->group("Reads");
  AddSecurityFlags(app, &options->security);
  AddAuditFlag(app, &options->audit_log);
  app->add_option("--log-level", options->log_level, "What goes to standard error")
      ->capture_default_str()
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->group("Other");
  app->add_flag("--enable-test-hooks", options->enable_test_hooks,
                "POST /test/... damages rows on request; on loopback addresses only")
      ->group("Other");
}

}  // namespace

ParsedOptions ParseNodeOptions(int argc, const char* const* argv) {
  ParsedOptions parsed;
  CLI::App app(
      "Holds slots of a model's Engram tables in memory and sends their rows to readers. It loads\n"
      "what the coordinator assigns to it from the checkpoint folder, which must be readable here\n"
      "under the same path, and keeps serving while the coordinator is down.",
      "engram-shard-server");
  app.footer(
      "Example:\n"
      "  engram-shard-server --id m0 --zone a --coordinator head:7000 --listen 0.0.0.0:7100 \\\n"
      "      --http 0.0.0.0:7101 --memory 64GiB --certs /etc/engram/certs\n"
      "`engramctl certs` makes certificates. Without --certs it listens on loopback only, or with\n"
      "--insecure on any address, where whoever can connect reads.");
  AddOptions(&app, &parsed.options);
  app.set_version_flag("--version", ENGRAM_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    parsed.exit_code = app.exit(error);
  }
  return parsed;
}

Status CheckNodeOptions(const NodeOptions& options) {
  const auto bad = [](const std::string& what) {
    return Status(StatusCode::kInvalidArgument, what);
  };
  if (options.id.empty()) return bad("--id is empty: give this node a name");
  if (options.memory_bytes < kMemoryBytesMin) {
    return bad("--memory " + std::to_string(options.memory_bytes) +
               " is under 1 MiB: give it a unit, such as 64GiB");
  }
  std::string hosts[2];
  const std::pair<const char*, const std::string*> addresses[] = {{"--listen", &options.listen},
                                                                  {"--http", &options.http}};
  for (size_t i = 0; i < 2; ++i) {
    const auto address = ParseHostPort(*addresses[i].second);
    if (!address.has_value()) return address.error().WithContext(addresses[i].first);
    hosts[i] = address->host;
  }
  if (const auto coordinators = ParseAddresses(options.coordinator); !coordinators.has_value()) {
    return coordinators.error().WithContext("--coordinator");
  }
  if (options.enable_test_hooks && !(IsLoopback(hosts[0]) && IsLoopback(hosts[1]))) {
    return bad(
        "--enable-test-hooks lets anyone damage rows: it needs --listen and --http on "
        "127.0.0.1");
  }
  return {};
}

std::string AdvertisedHost(const NodeOptions& options, const std::string& machine) {
  if (!options.advertise.empty()) return options.advertise;
  const auto listen = ParseHostPort(options.listen);
  if (!listen.has_value() || IsAnyHost(listen->host)) return machine;
  return listen->host;
}

}  // namespace engram
