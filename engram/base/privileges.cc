#include "engram/base/privileges.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace engram {
namespace {

constexpr mode_t kOwnerOnly = 077;
// The kernel tells of more than this header knows: asked until it says that there is no such one.
constexpr int kCapabilitiesMax = 64;

Status Refused(const char* what) {
  return {StatusCode::kInternal,
          std::string("cannot give privileges up: ") + what + ": " + std::strerror(errno)};
}

// Only who has CAP_SETPCAP may; for others no_new_privs does the same, as no program that is
// started gets anything.
Status EmptyBoundingSet() {
  for (int capability = 0; capability < kCapabilitiesMax; ++capability) {
    const int has = ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (has < 0) break;
    if (has == 1 && ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EPERM) {
      return Refused("PR_CAPBSET_DROP");
    }
  }
  return Status();
}

Status KeepOnly(unsigned capability) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) return Refused("capget");
  for (size_t word = 0; word < sets.size(); ++word) {
    const uint32_t kept = word == CAP_TO_INDEX(capability) ? CAP_TO_MASK(capability) : 0;
    sets[word].permitted &= kept;
    sets[word].effective = sets[word].permitted;
    sets[word].inheritable = 0;
  }
  return ::syscall(SYS_capset, &header, sets.data()) == 0 ? Status() : Refused("capset");
}

}  // namespace

Status RefuseNewPrivileges() {
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? Status() : Refused("no_new_privs");
}

Status DropPrivileges() {
  ENGRAM_RETURN_IF_ERROR(RefuseNewPrivileges());
  ENGRAM_RETURN_IF_ERROR(EmptyBoundingSet());
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return Refused("PR_CAP_AMBIENT");
  }
  return KeepOnly(CAP_IPC_LOCK);
}

void KeepNewFilesPrivate() { (void)::umask(kOwnerOnly); }

std::string RootWarning() {
  if (::geteuid() != 0) return {};
  return "runs as root, with its capabilities given up: start it as a user of its own (systemd "
         "User=, docker --user, Kubernetes runAsUser) who may read its files; as root, files of "
         "other users are read only where everybody may";
}

}  // namespace engram
