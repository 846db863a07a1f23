#include "model_worker/collectives/host_share.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <sched.h>
#include <unistd.h>

namespace engram {
namespace {

struct Place {
  uint64_t host = 0;  // a hash
  cpu_set_t cores{};
};

// Containers on one machine have names of their own, and GPUs and cores of their own with them.
uint64_t HostHash() {
  char name[256] = {};
  (void)::gethostname(name, sizeof(name) - 1);
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  return std::hash<std::string>{}(name + ("/" + boot));
}

}  // namespace

Result<HostShare> ShareHost(Collective* collective) {
  HostShare share;
  Place mine;
  CPU_ZERO(&mine.cores);
  if (::sched_getaffinity(0, sizeof(mine.cores), &mine.cores) != 0 || CPU_COUNT(&mine.cores) == 0) {
    share.threads = std::max(1u, std::thread::hardware_concurrency());
    CPU_SET(0, &mine.cores);
  } else {
    share.threads = static_cast<uint32_t>(CPU_COUNT(&mine.cores));
  }
  if (collective == nullptr) return share;
  mine.host = HostHash();
  std::vector<Place> places(collective->rank_count());
  places[collective->rank()] = mine;
  std::vector<std::span<std::byte>> blocks;
  for (Place& place : places) blocks.push_back(std::as_writable_bytes(std::span(&place, 1)));
  ENGRAM_TRY(collective->AllGather(blocks));
  share.rank_count = 0;
  uint32_t sharers = 0;
  for (uint32_t rank = 0; rank < places.size(); ++rank) {
    if (places[rank].host != mine.host) continue;
    if (rank == collective->rank()) share.rank = share.rank_count;
    ++share.rank_count;
    cpu_set_t both;
    CPU_AND(&both, &places[rank].cores, &mine.cores);
    if (CPU_COUNT(&both) != 0) ++sharers;
  }
  const auto online = static_cast<uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  share.bound_to_few = share.threads == 1 && online / share.rank_count > 1;
  share.threads = std::max(1u, share.threads / sharers);
  return share;
}

}  // namespace engram
