#include "tests/support/silent_names.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include <arpa/inet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/child_process.h"

namespace engram::test {
namespace {

Status Denied(const std::string& what) {
  return {StatusCode::kPermissionDenied, what + ": " + std::strerror(errno)};
}

// `text` in place of a file of /etc.
Status Replace(const std::string& file, const std::string& text) {
  const ScratchDir scratch;
  const std::string other = (scratch.path() / "file").string();
  std::ofstream(other) << text;
  // The mount keeps the file when its name is gone.
  if (mount(other.c_str(), file.c_str(), nullptr, MS_BIND, nullptr) != 0) return Denied(file);
  return Status();
}

Status LoopbackUp(int socket) {
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", sizeof(request.ifr_name) - 1);
  request.ifr_flags = IFF_UP;
  return ioctl(socket, SIOCSIFFLAGS, &request) == 0 ? Status() : Denied("lo");
}

}  // namespace

Result<std::unique_ptr<SilentNames>> SilentNames::Create() {
  if (unshare(CLONE_NEWNS | CLONE_NEWNET) != 0) return Error(Denied("namespaces"));
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return Error(Denied("mounts of its own"));
  }
  ENGRAM_TRY(Replace("/etc/resolv.conf", "nameserver 127.0.0.1\n"));
  ENGRAM_TRY(Replace("/etc/hosts", "127.0.0.1 here localhost\n"));
  ENGRAM_TRY(Replace("/etc/nsswitch.conf", "hosts: files dns\n"));
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  std::unique_ptr<SilentNames> names(new SilentNames(socket));
  ENGRAM_TRY(LoopbackUp(socket));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(53);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Error(Denied("port 53"));
  }
  return names;
}

SilentNames::~SilentNames() { close(socket_); }

}  // namespace engram::test
