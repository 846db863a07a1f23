// engram-shard-server: a memory node.
#include <climits>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <nlohmann/json.hpp>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "engram/base/descriptor_limit.h"
#include "engram/base/privileges.h"
#include "engram/http/http_server.h"
#include "engram/rpc/host_port.h"
#include "engram/transport/ucx/ucx_row_server.h"
#include "engram/transport/ucx/ucx_transport.h"
#include "shard_server/byte_text.h"
#include "shard_server/coordinator_agent.h"
#include "shard_server/memory_node.h"
#include "shard_server/node_options.h"
#include "shard_server/node_pages.h"

namespace engram {
namespace {

// Renewed while a copy takes longer.
constexpr UnixSeconds kCopyTokenLifetime{600};

Incarnation RandomIncarnation() {
  std::random_device random;
  uint64_t value = 0;
  while (value == 0) value = uint64_t{random()} << 32 | random();
  return Incarnation(value);
}

std::string MachineName() {
  char name[HOST_NAME_MAX + 1] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

// Whole or not at all: scripts wait for the file to appear.
Status Announce(const std::string& file, const nlohmann::json& what) {
  const std::string partial = file + ".partial";
  {
    std::ofstream out(partial);
    out << what.dump() << "\n";
    if (!out.flush()) return {StatusCode::kIo, "--announce-file: cannot write " + partial};
  }
  std::error_code error;
  std::filesystem::rename(partial, file, error);
  if (!error) return {};
  return {StatusCode::kIo, "--announce-file: cannot write " + file + ": " + error.message()};
}

void WarnOfLittleMemory(uint64_t memory_bytes) {
  const auto pages = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  const uint64_t machine_bytes = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (memory_bytes < machine_bytes) return;
  spdlog::warn("--memory {} is more than this machine's {}: loading will fail or swap",
               ByteText(memory_bytes), ByteText(machine_bytes));
}

// A session has its control connection, and one of UCX in each direction.
void RaiseLimits(uint32_t sessions_max) {
  constexpr uint64_t kDescriptorsOfSession = 3;
  constexpr uint64_t kOtherDescriptors = 512;
  const uint64_t allowed = RaiseDescriptorLimit();
  const uint64_t needed = sessions_max * kDescriptorsOfSession + kOtherDescriptors;
  if (allowed >= needed) return;
  spdlog::warn(
      "this process may have {} descriptors open; --sessions-max {} needs {}: raise "
      "LimitNOFILE (systemd) or the container's limit, or allow fewer sessions",
      allowed, sessions_max, needed);
}

// The store's io_context on a thread of its own; stopped and joined at the end.
class StoreThread {
 public:
  StoreThread() : guard_(io_.get_executor()), thread_([this] { io_.run(); }) {}
  ~StoreThread() { Stop(); }
  void Stop() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }
  boost::asio::io_context& io() { return io_; }

 private:
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> guard_;
  std::thread thread_;
};

CoordinatorAgent::Options AgentOptions(const NodeOptions& options, const ChannelSecurity& security,
                                       std::shared_ptr<TokenKeys> token_keys,
                                       Incarnation incarnation, const std::string& http_address,
                                       const std::string& data_address) {
  CoordinatorAgent::Options agent;
  agent.coordinator_address = options.coordinator;
  agent.security = security;
  agent.token_keys = std::move(token_keys);
  agent.description.set_id(options.id);
  agent.description.set_zone(options.zone);
  agent.description.set_incarnation(incarnation.value());
  agent.description.set_data_address(data_address);
  agent.description.set_capacity_bytes(options.memory_bytes);
  agent.description.set_http_address(http_address);
  return agent;
}

// "host:port" that others can reach, for an address listened on.
std::string Reachable(const std::string& host, const std::string& listened) {
  const std::string port = listened.substr(listened.rfind(':'));
  return host.find(':') == std::string::npos ? host + port : "[" + host + "]" + port;
}

Status Run(const NodeOptions& options) {
  ENGRAM_RETURN_IF_ERROR(DropPrivileges());
  KeepNewFilesPrivate();
  if (const std::string root = RootWarning(); !root.empty()) spdlog::warn(root);
  ENGRAM_RETURN_IF_ERROR(CheckNodeOptions(options));
  WarnOfLittleMemory(options.memory_bytes);
  RaiseLimits(options.sessions_max);
  const auto security = OpenServerSecurity(options.security, Role::kNode, options.id);
  if (!security.has_value()) return security.error();
  // What readers show, and what this node shows where it copies slots.
  std::shared_ptr<TokenKeys> token_keys;
  if (security->identity != nullptr) token_keys = std::make_shared<TokenKeys>();
  const auto audit = OpenAuditLog(options.audit_log);
  if (!audit.has_value()) return audit.error();
  const Incarnation incarnation = RandomIncarnation();
  const std::string host = AdvertisedHost(options, MachineName());

  UcxRowServerOptions server_options;
  server_options.listen_address = options.listen;
  server_options.advertised_host = host;
  server_options.incarnation = incarnation;
  server_options.tls = options.transport;
  server_options.gather_threads = options.gather_threads;
  server_options.spin_max = std::chrono::microseconds(options.spin_us);
  server_options.sessions_max = options.sessions_max;
  server_options.waiting_rows_max = options.waiting_rows_max;
  server_options.lease = std::chrono::milliseconds(options.lease_ms);
  server_options.one_sided = options.one_sided;
  server_options.security = *security;
  server_options.audit = *audit;
  server_options.token_keys = token_keys;
  auto server = UcxRowServer::Create(server_options);
  if (!server.has_value()) return server.error();

  boost::asio::io_context io(1);
  StoreThread store_thread;
  MemoryNode::Options node_options;
  node_options.store.memory_bytes_max = options.memory_bytes;
  node_options.store.release_patience = std::chrono::milliseconds(options.release_patience_ms);
  node_options.scrub_bytes_per_s_max = options.scrub_bytes_per_s;
  node_options.make_transport = [tls = options.transport, security = *security, token_keys] {
    UcxTransportOptions reader;
    reader.way = ReadWay::kGather;
    reader.tls = tls;
    reader.security = security;
    if (token_keys != nullptr) {
      reader.token_of = [security, token_keys](TableVersion version, const std::string& address) {
        const UnixSeconds now = UnixNow();
        return token_keys
            ->Sign({security.identity->own().name, version, address, now + kCopyTokenLifetime}, now)
            .value_or(std::string());
      };
    }
    reader.spin_max = std::chrono::microseconds(0);  // nobody waits for a copied row
    return UcxTransport::Create(reader);
  };
  MemoryNode node(store_thread.io().get_executor(), server->get(), node_options);

  // The agent is told the HTTP address, and the pages show the agent: the server comes first, its
  // pages when both are there, and nothing is answered before io runs.
  HttpServer::Handler pages;
  auto http = HttpServer::Create(
      io.get_executor(), {.listen_address = options.http, .security = *security, .audit = *audit},
      [&pages](const HttpRequest& request, HttpResponder& responder) {
        return pages(request, responder);
      });
  if (!http.has_value()) {
    store_thread.Stop();
    return http.error();
  }
  const auto http_listen = ParseHostPort(options.http);
  const bool http_any = http_listen->host == "0.0.0.0" || http_listen->host == "::";
  const std::string http_address =
      Reachable(http_any ? host : http_listen->host, (*http)->address());
  CoordinatorAgent agent(io.get_executor(), &node,
                         AgentOptions(options, *security, token_keys, incarnation, http_address,
                                      (*server)->address()));
  pages = NodePages({options.id, options.zone, incarnation, server->get(), &node, &agent,
                     CertificatesOf(*security)},
                    options.enable_test_hooks);

  boost::asio::signal_set signals(io, SIGINT, SIGTERM);
  signals.async_wait([&](const boost::system::error_code& error, int signal) {
    if (error) return;
    spdlog::info("signal {}: ending", signal);
    agent.Stop();
    io.stop();
  });
  spdlog::info("node {} (incarnation {}): rows at {}, HTTP at {}, up to {}", options.id,
               incarnation.value(), (*server)->address(), http_address,
               ByteText(options.memory_bytes));
  if (const std::string off = (*server)->ways_off(); !off.empty()) spdlog::info("{}", off);
  if (options.enable_test_hooks) spdlog::warn("test hooks are on: anyone here can damage rows");
  Status status;
  if (!options.announce_file.empty()) {
    status = Announce(options.announce_file, {{"data", (*server)->address()},
                                              {"http", http_address},
                                              {"incarnation", incarnation.value()}});
  }
  if (status.ok()) {
    agent.Start();
    io.run();
  }
  // The store's thread first: then nothing runs that the node's end could meet.
  store_thread.Stop();
  return status;
}

}  // namespace
}  // namespace engram

int main(int argc, char** argv) {
  const engram::ParsedOptions parsed = engram::ParseNodeOptions(argc, argv);
  if (parsed.exit_code.has_value()) return *parsed.exit_code;
  spdlog::set_default_logger(spdlog::stderr_color_mt(parsed.options.id));
  spdlog::set_level(spdlog::level::from_str(parsed.options.log_level));
  engram::Status status;
  try {
    status = engram::Run(parsed.options);
  } catch (const std::exception& error) {
    status = engram::Status(engram::StatusCode::kInternal, error.what());
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "engram-shard-server: %s\n", status.ToString().c_str());
  return 1;
}
