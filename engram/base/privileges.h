// What a process may do beyond what its user's files and sockets allow. Our servers need none of
// it.
#pragma once

#include <string>

#include "engram/base/status.h"

namespace engram {

// For a server, first thing in main: Linux keeps capabilities by thread, and later threads have
// those of the thread that starts them. Neither this process nor what it starts has afterwards
//   - any capability but CAP_IPC_LOCK, where it has that: RDMA memory is pinned beyond
//     `ulimit -l`, whenever a table is loaded;
//   - a way to get one: no_new_privs, bounding (where it may be changed) and ambient sets empty.
// As root it reads and writes what root's own file access allows, nothing else.
// ERRORS: kInternal naming what the kernel refused.
[[nodiscard]] Status DropPrivileges();

// State, audit log and the like are for their owner alone from now on: umask 077.
void KeepNewFilesPrivate();

// For a program that works on its user's files for a moment: no_new_privs alone. ERRORS: kInternal.
[[nodiscard]] Status RefuseNewPrivileges();

// What to log once where a server runs as root; empty where it does not.
[[nodiscard]] std::string RootWarning();

}  // namespace engram
