// Which processes can share memory with this one.
#pragma once

#include <string>

namespace engram {

// Equal in two processes that may map each other's memory: the kernel's boot id and the IPC
// namespace. Network namespaces do not part hosts for shared memory. Empty where it cannot be told;
// an empty identity equals none.
[[nodiscard]] std::string HostIdentity();

}  // namespace engram
