#include "bench/peer.h"

#include <algorithm>

namespace engram::bench {
namespace {

using StartFunction = Result<std::unique_ptr<Peer>> (*)(const PeerTable&);
struct PeerKind {
  const char* name;
  const char* packages;
  StartFunction start;  // null: not in this build
};

#if ENGRAM_PEER_REDIS
constexpr StartFunction kStartRedis = StartRedis;
#else
constexpr StartFunction kStartRedis = nullptr;
#endif
#if ENGRAM_PEER_MEMCACHED
constexpr StartFunction kStartMemcached = StartMemcached;
#else
constexpr StartFunction kStartMemcached = nullptr;
#endif
#if ENGRAM_PEER_GRPC
constexpr StartFunction kStartGrpcRows = StartGrpcRows;
#else
constexpr StartFunction kStartGrpcRows = nullptr;
#endif

constexpr PeerKind kPeerKinds[] = {
    {"redis", "redis-server libhiredis-dev", kStartRedis},
    {"memcached", "memcached libmemcached-dev", kStartMemcached},
    {"grpc", "libgrpc++-dev protobuf-compiler-grpc", kStartGrpcRows},
};

}  // namespace

std::vector<PeerSetting> PeerSettings(std::span<const PeerSetting> servers,
                                      std::span<const uint32_t> sizes, uint32_t rows) {
  std::vector<PeerSetting> settings;
  for (const PeerSetting& server : servers) {
    const uint32_t share = (rows + server.connections - 1) / server.connections;
    for (const uint32_t size : sizes) {
      PeerSetting setting = server;
      setting.rows_max = std::min(size, share);
      if (std::find(settings.begin(), settings.end(), setting) == settings.end()) {
        settings.push_back(setting);
      }
    }
  }
  return settings;
}

std::string ConnectionsOf(const PeerSetting& setting) {
  return std::to_string(setting.connections) +
         (setting.connections == 1 ? " connection" : " connections");
}

Result<std::unique_ptr<Peer>> StartPeer(const std::string& name, const PeerTable& table) {
  const auto* const kind = std::find_if(std::begin(kPeerKinds), std::end(kPeerKinds),
                                        [&](const PeerKind& k) { return k.name == name; });
  if (kind == std::end(kPeerKinds)) {
    return Error(StatusCode::kInvalidArgument,
                 "no peer is called " + name + ": redis, memcached or grpc");
  }
  const std::string fix = std::string("install the Debian packages ") + kind->packages +
                          " (deploy/install-deps --bench)";
  if (kind->start == nullptr) {
    return Error(StatusCode::kFailedPrecondition,
                 "this engram-bench was built without a client of " + name + ": " + fix +
                     ", configure and build again, or leave it out of --peers");
  }
  auto peer = kind->start(table);
  if (!peer.has_value() && peer.error().code() == StatusCode::kNotFound) {
    return Error(StatusCode::kFailedPrecondition,
                 peer.error().message() + ": " + fix + ", or leave it out of --peers");
  }
  if (!peer.has_value()) return Error(peer.error().WithContext(name));
  return peer;
}

}  // namespace engram::bench
