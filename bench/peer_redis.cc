// Rows from Redis: a key is the eight bytes of an id, a batch is pipelined MGETs.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <hiredis/hiredis.h>

#include "bench/made_up_rows.h"
#include "bench/peer.h"
#include "bench/started_program.h"

namespace engram::bench {
namespace {

constexpr uint32_t kLoadRowsAMessage = 256;
constexpr uint32_t kLoadMessagesInFlight = 16;

struct FreeContext {
  void operator()(redisContext* context) const { redisFree(context); }
};
using Connection = std::unique_ptr<redisContext, FreeContext>;

struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

Status Lost(const redisContext& connection) {
  return {StatusCode::kPeerLost, std::string("redis: ") + connection.errstr};
}

Result<Connection> Connect(uint16_t port) {
  constexpr timeval kPatience{.tv_sec = 10, .tv_usec = 0};
  Connection connection(redisConnectWithTimeout("127.0.0.1", port, kPatience));
  if (connection == nullptr || connection->err != 0) {
    return Error(StatusCode::kUnavailable,
                 connection == nullptr ? "redis: out of memory" : connection->errstr);
  }
  redisSetTimeout(connection.get(), kPatience);
  return connection;
}

// Where the rows of the MGET whose reply is read next go. hiredis lets a client take values where
// they lie in its buffer: that saves Redis the allocation and the copy of a redisReply for each.
struct Landing {
  std::byte* out = nullptr;
  size_t rows = 0;
  size_t row_bytes = 0;
  size_t landed = 0;
  std::string error;
};

Landing& LandingOf(const redisReadTask* task) { return *static_cast<Landing*>(task->privdata); }

void* LandString(const redisReadTask* task, char* text, size_t length) {
  Landing& landing = LandingOf(task);
  if (task->type == REDIS_REPLY_ERROR) {
    landing.error.assign(text, length);
  } else if (task->parent != nullptr && length == landing.row_bytes &&
             static_cast<size_t>(task->idx) < landing.rows) {
    std::memcpy(landing.out + static_cast<size_t>(task->idx) * length, text, length);
    ++landing.landed;
  }
  return &landing;  // not null is all that hiredis asks of it
}
void* LandArray(const redisReadTask* task, int /*elements*/) { return &LandingOf(task); }
void* LandInteger(const redisReadTask* task, long long /*value*/) { return &LandingOf(task); }
void* LandNil(const redisReadTask* task) { return &LandingOf(task); }
void LandFree(void* /*object*/) {}

redisReplyObjectFunctions landing_functions = {LandString, LandArray, LandInteger, LandNil,
                                               LandFree};

// One command with ids, and values where it sets them. Thread-compatible.
class Command {
 public:
  void Start(const char* name) {
    parts_.assign(1, name);
    lengths_.assign(1, std::strlen(name));
  }
  void Add(const void* bytes, size_t length) {
    parts_.push_back(static_cast<const char*>(bytes));
    lengths_.push_back(length);
  }
  void AppendTo(redisContext* connection) const {
    redisAppendCommandArgv(connection, static_cast<int>(parts_.size()),
                           const_cast<const char**>(parts_.data()), lengths_.data());
  }

 private:
  std::vector<const char*> parts_;
  std::vector<size_t> lengths_;
};

Status TakeReplies(redisContext* connection, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    void* raw = nullptr;
    if (redisGetReply(connection, &raw) != REDIS_OK) return Lost(*connection);
    const Reply reply(static_cast<redisReply*>(raw));
    if (reply->type == REDIS_REPLY_ERROR) return {StatusCode::kUnavailable, reply->str};
  }
  return {};
}

Status Load(redisContext* connection, const PeerTable& table) {
  Command set;
  std::vector<uint64_t> ids(kLoadRowsAMessage);
  std::vector<std::byte> values(size_t{kLoadRowsAMessage} * table.row_bytes);
  uint32_t in_flight = 0;
  for (uint64_t first = 0; first < table.rows; first += kLoadRowsAMessage) {
    set.Start("MSET");
    const uint64_t rows = std::min<uint64_t>(kLoadRowsAMessage, table.rows - first);
    for (uint64_t i = 0; i < rows; ++i) {
      std::byte* const value = values.data() + i * table.row_bytes;
      ids[i] = first + i;
      MakeUpRow(RowAddress(ids[i]), {value, table.row_bytes});
      set.Add(&ids[i], sizeof(ids[i]));
      set.Add(value, table.row_bytes);
    }
    set.AppendTo(connection);
    if (++in_flight == kLoadMessagesInFlight) {
      ENGRAM_RETURN_IF_ERROR(TakeReplies(connection, std::exchange(in_flight, 0)));
    }
  }
  return TakeReplies(connection, in_flight);
}

// "7.0.15" of the reply to INFO server.
std::string ServerVersion(redisContext* connection) {
  const Reply reply(static_cast<redisReply*>(redisCommand(connection, "INFO server")));
  if (reply == nullptr || reply->type != REDIS_REPLY_STRING) return "unknown";
  const std::string info(reply->str, static_cast<size_t>(reply->len));
  constexpr std::string_view kKey = "redis_version:";
  const size_t at = info.find(kKey);
  if (at == std::string::npos) return "unknown";
  const size_t from = at + kKey.size();
  return info.substr(from, info.find_first_of("\r\n", from) - from);
}

struct Server {
  uint32_t io_threads;
  uint16_t port;
  StartedProgram process;
};

class RedisPeer final : public Peer {
 public:
  RedisPeer(const PeerTable& table, std::vector<Server> servers, std::string version)
      : table_(table), servers_(std::move(servers)), version_(std::move(version)) {}

  std::string version() const override { return version_; }

  std::vector<PeerSetting> Settings(uint32_t rows) const override {
    // Redis wakes its I/O threads only if at least twice as many connections wait.
    static constexpr PeerSetting kServers[] = {{.threads = 1, .connections = 1},
                                               {.threads = 2, .connections = 4}};
    static constexpr uint32_t kSizes[] = {64, 256, 1024};
    return PeerSettings(kServers, kSizes, rows);
  }

  std::string Describe(const PeerSetting& setting) const override {
    return "io-threads " + std::to_string(setting.threads) + ", " + ConnectionsOf(setting) +
           ", MGET of " + std::to_string(setting.rows_max);
  }

  Status Use(const PeerSetting& setting) override {
    setting_ = setting;
    connections_.clear();
    const auto server = std::find_if(servers_.begin(), servers_.end(), [&](const Server& s) {
      return s.io_threads == setting.threads;
    });
    for (uint32_t i = 0; i < setting.connections; ++i) {
      auto connection = Connect(server->port);
      if (!connection.has_value()) return connection.error();
      (*connection)->reader->fn = &landing_functions;
      (*connection)->reader->privdata = &landing_;
      connections_.push_back(*std::move(connection));
    }
    return {};
  }

  Status Read(std::span<const uint64_t> ids, std::byte* out) override {
    size_t turn = 0;
    for (size_t first = 0; first < ids.size(); first += setting_.rows_max) {
      get_.Start("MGET");
      for (const uint64_t& id : Message(ids, first)) get_.Add(&id, sizeof(id));
      get_.AppendTo(connections_[turn++ % connections_.size()].get());
    }
    for (const Connection& connection : connections_) {
      int done = 0;
      while (done == 0) {
        if (redisBufferWrite(connection.get(), &done) != REDIS_OK) return Lost(*connection);
      }
    }
    turn = 0;
    for (size_t first = 0; first < ids.size(); first += setting_.rows_max) {
      redisContext* const connection = connections_[turn++ % connections_.size()].get();
      landing_ = {.out = out + first * table_.row_bytes,
                  .rows = Message(ids, first).size(),
                  .row_bytes = table_.row_bytes};
      void* landed = nullptr;
      if (redisGetReply(connection, &landed) != REDIS_OK) return Lost(*connection);
      if (!landing_.error.empty()) return {StatusCode::kUnavailable, "redis: " + landing_.error};
      if (landing_.landed != landing_.rows) return {StatusCode::kNotFound, "redis lacks a row"};
    }
    return {};
  }

 private:
  std::span<const uint64_t> Message(std::span<const uint64_t> ids, size_t first) const {
    return ids.subspan(first, std::min<size_t>(setting_.rows_max, ids.size() - first));
  }

  PeerTable table_;
  std::vector<Server> servers_;
  std::string version_;
  PeerSetting setting_;
  Landing landing_;
  Command get_;
  std::vector<Connection> connections_;  // end before the servers do
};

}  // namespace

Result<std::unique_ptr<Peer>> StartRedis(const PeerTable& table) {
  std::vector<Server> servers;
  std::string version;
  for (const uint32_t io_threads : {1u, 2u}) {
    ENGRAM_ASSIGN_OR_RETURN(const uint16_t port, FreePort());
    ENGRAM_ASSIGN_OR_RETURN(
        StartedProgram process,
        StartedProgram::Start({"redis-server", "--bind", "127.0.0.1", "--port",
                               std::to_string(port), "--save", "", "--appendonly", "no",
                               "--maxmemory", "0", "--io-threads", std::to_string(io_threads),
                               "--io-threads-do-reads", "yes"}));
    ENGRAM_TRY(process.AwaitListening(port));
    ENGRAM_ASSIGN_OR_RETURN(const Connection connection, Connect(port));
    ENGRAM_TRY(Load(connection.get(), table));
    version = ServerVersion(connection.get()) + ", hiredis " + std::to_string(HIREDIS_MAJOR) + "." +
              std::to_string(HIREDIS_MINOR) + "." + std::to_string(HIREDIS_PATCH);
    servers.push_back({io_threads, port, std::move(process)});
  }
  return std::make_unique<RedisPeer>(table, std::move(servers), std::move(version));
}

}  // namespace engram::bench
