#include "engram/transport/ucx/host_identity.h"

#include <filesystem>
#include <fstream>
#include <system_error>

namespace engram {

std::string HostIdentity() {
  std::string boot_id;
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  if (!std::getline(file, boot_id)) return {};
  std::error_code error;
  const auto ipc = std::filesystem::read_symlink("/proc/self/ns/ipc", error);
  if (error) return {};
  return boot_id + " " + ipc.string();
}

}  // namespace engram
