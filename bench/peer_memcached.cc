// Rows from memcached: a key is an id in base 36, a batch is multigets of the text protocol.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>

#include <libmemcached/memcached.h>
#include <unistd.h>

#include "bench/made_up_rows.h"
#include "bench/peer.h"
#include "bench/started_program.h"

namespace engram::bench {
namespace {

struct FreeClient {
  void operator()(memcached_st* client) const { memcached_free(client); }
};
using Connection = std::unique_ptr<memcached_st, FreeClient>;

Status Lost(memcached_st* connection) {
  return {StatusCode::kPeerLost,
          std::string("memcached: ") + memcached_last_error_message(connection)};
}

Result<Connection> Connect(uint16_t port) {
  Connection connection(memcached_create(nullptr));
  memcached_behavior_set(connection.get(), MEMCACHED_BEHAVIOR_NO_BLOCK, 1);
  memcached_behavior_set(connection.get(), MEMCACHED_BEHAVIOR_TCP_NODELAY, 1);
  memcached_behavior_set(connection.get(), MEMCACHED_BEHAVIOR_POLL_TIMEOUT, 10'000);
  if (memcached_failed(memcached_server_add(connection.get(), "127.0.0.1", port))) {
    return Error(Lost(connection.get()));
  }
  return connection;
}

class Key {
 public:
  explicit Key(uint64_t id)
      : length_(static_cast<size_t>(
            std::to_chars(text_.data(), text_.data() + text_.size(), id, 36).ptr - text_.data())) {}
  const char* data() const { return text_.data(); }
  size_t size() const { return length_; }

 private:
  std::array<char, 16> text_;
  size_t length_;
};

// Sets are not answered one by one.
Status Load(uint16_t port, const PeerTable& table) {
  auto connection = Connect(port);
  if (!connection.has_value()) return connection.error();
  memcached_st* const client = connection->get();
  memcached_behavior_set(client, MEMCACHED_BEHAVIOR_NOREPLY, 1);
  memcached_behavior_set(client, MEMCACHED_BEHAVIOR_BUFFER_REQUESTS, 1);
  std::vector<std::byte> value(table.row_bytes);
  for (uint64_t id = 0; id < table.rows; ++id) {
    MakeUpRow(RowAddress(id), value);
    const Key key(id);
    if (memcached_failed(memcached_set(client, key.data(), key.size(),
                                       reinterpret_cast<const char*>(value.data()), value.size(), 0,
                                       0))) {
      return Lost(client);
    }
  }
  if (memcached_failed(memcached_flush_buffers(client))) return Lost(client);
  // It answers when it has read all that was sent before.
  if (memcached_failed(memcached_version(client))) return Lost(client);
  return {};
}

std::string ServerVersion(uint16_t port) {
  const auto connection = Connect(port);
  if (!connection.has_value() || memcached_failed(memcached_version(connection->get()))) {
    return "unknown";
  }
  const auto* const server = memcached_server_instance_by_position(connection->get(), 0);
  return std::to_string(memcached_server_major_version(server)) + "." +
         std::to_string(memcached_server_minor_version(server)) + "." +
         std::to_string(memcached_server_micro_version(server));
}

struct Server {
  uint32_t threads;
  uint16_t port;
  StartedProgram process;
};

// Where the rows of a multiget go. memcached answers in the order of the keys, and leaves out what
// it does not have.
struct Landing {
  std::span<const Key> keys;
  std::byte* out = nullptr;
  size_t row_bytes = 0;
  size_t landed = 0;
  bool in_order = true;
};

memcached_return_t LandRow(const memcached_st* /*client*/, memcached_result_st* result,
                           void* context) {
  Landing& landing = *static_cast<Landing*>(context);
  const std::string_view key(memcached_result_key_value(result),
                             memcached_result_key_length(result));
  if (landing.landed >= landing.keys.size() ||
      memcached_result_length(result) != landing.row_bytes ||
      key != std::string_view(landing.keys[landing.landed].data(),
                              landing.keys[landing.landed].size())) {
    landing.in_order = false;
    return MEMCACHED_SUCCESS;
  }
  std::memcpy(landing.out + landing.landed * landing.row_bytes, memcached_result_value(result),
              landing.row_bytes);
  ++landing.landed;
  return MEMCACHED_SUCCESS;
}

class MemcachedPeer final : public Peer {
 public:
  MemcachedPeer(const PeerTable& table, std::vector<Server> servers, std::string version)
      : table_(table), servers_(std::move(servers)), version_(std::move(version)) {}

  std::string version() const override { return version_; }

  std::vector<PeerSetting> Settings(uint32_t rows) const override {
    // A connection has one multiget in flight: with a second one, requests and replies overlap.
    static constexpr PeerSetting kServers[] = {{.threads = 1, .connections = 1},
                                               {.threads = 1, .connections = 2},
                                               {.threads = 2, .connections = 2}};
    static constexpr uint32_t kSizes[] = {48, 256, 1024};
    return PeerSettings(kServers, kSizes, rows);
  }

  std::string Describe(const PeerSetting& setting) const override {
    return "-t " + std::to_string(setting.threads) + ", " + ConnectionsOf(setting) +
           ", multiget of " + std::to_string(setting.rows_max);
  }

  Status Use(const PeerSetting& setting) override {
    setting_ = setting;
    connections_.clear();
    const auto server = std::find_if(servers_.begin(), servers_.end(),
                                     [&](const Server& s) { return s.threads == setting.threads; });
    for (uint32_t i = 0; i < setting.connections; ++i) {
      auto connection = Connect(server->port);
      if (!connection.has_value()) return connection.error();
      connections_.push_back(*std::move(connection));
    }
    return {};
  }

  Status Read(std::span<const uint64_t> ids, std::byte* out) override {
    keys_.clear();
    for (const uint64_t id : ids) keys_.emplace_back(id);
    const size_t messages = (ids.size() + setting_.rows_max - 1) / setting_.rows_max;
    const size_t window = connections_.size();
    for (size_t i = 0; i < messages + window; ++i) {
      if (i >= window) ENGRAM_RETURN_IF_ERROR(Take(i - window, out));
      if (i < messages) ENGRAM_RETURN_IF_ERROR(Ask(i));
    }
    return {};
  }

 private:
  std::span<const Key> KeysOf(size_t message) const {
    const size_t first = message * setting_.rows_max;
    return std::span(keys_).subspan(first,
                                    std::min<size_t>(setting_.rows_max, keys_.size() - first));
  }
  memcached_st* ConnectionOf(size_t message) const {
    return connections_[message % connections_.size()].get();
  }

  Status Ask(size_t message) {
    texts_.clear();
    lengths_.clear();
    for (const Key& key : KeysOf(message)) {
      texts_.push_back(key.data());
      lengths_.push_back(key.size());
    }
    memcached_st* const connection = ConnectionOf(message);
    if (memcached_failed(
            memcached_mget(connection, texts_.data(), lengths_.data(), texts_.size()))) {
      return Lost(connection);
    }
    return {};
  }

  Status Take(size_t message, std::byte* out) {
    Landing landing{.keys = KeysOf(message),
                    .out = out + message * setting_.rows_max * table_.row_bytes,
                    .row_bytes = table_.row_bytes};
    memcached_execute_fn land = LandRow;
    memcached_st* const connection = ConnectionOf(message);
    const memcached_return_t fetched = memcached_fetch_execute(connection, &land, &landing, 1);
    if (memcached_failed(fetched) && fetched != MEMCACHED_NOTFOUND) return Lost(connection);
    if (!landing.in_order || landing.landed != landing.keys.size()) {
      return {StatusCode::kNotFound, "memcached lacks a row"};
    }
    return {};
  }

  PeerTable table_;
  std::vector<Server> servers_;
  std::string version_;
  PeerSetting setting_;
  std::vector<Key> keys_;
  std::vector<const char*> texts_;
  std::vector<size_t> lengths_;
  std::vector<Connection> connections_;  // end before the servers do
};

}  // namespace

Result<std::unique_ptr<Peer>> StartMemcached(const PeerTable& table) {
  // What an item takes besides its row is below 128 bytes, and its size class may be a quarter
  // more.
  const uint64_t limit_mb = 64 + table.rows * (table.row_bytes + 128) * 5 / 4 / (1 << 20);
  std::vector<Server> servers;
  for (const uint32_t threads : {1u, 2u}) {
    ENGRAM_ASSIGN_OR_RETURN(const uint16_t port, FreePort());
    std::vector<std::string> argv = {"memcached",
                                     "-l",
                                     "127.0.0.1",
                                     "-p",
                                     std::to_string(port),
                                     "-U",
                                     "0",
                                     "-t",
                                     std::to_string(threads),
                                     "-m",
                                     std::to_string(limit_mb)};
    if (geteuid() == 0) argv.insert(argv.end(), {"-u", "root"});  // it does not start as root else
    ENGRAM_ASSIGN_OR_RETURN(StartedProgram process, StartedProgram::Start(std::move(argv)));
    ENGRAM_TRY(process.AwaitListening(port));
    ENGRAM_TRY(Load(port, table));
    servers.push_back({threads, port, std::move(process)});
  }
  std::string version =
      ServerVersion(servers.front().port) + ", libmemcached " + memcached_lib_version();
  return std::make_unique<MemcachedPeer>(table, std::move(servers), std::move(version));
}

}  // namespace engram::bench
