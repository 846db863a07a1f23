// What the kernel drops at a listening TCP socket: a classic BPF filter.
#pragma once

#include <string>
#include <vector>

#include "engram/base/status.h"

namespace engram {

// From now on these sockets take packets of these hosts (numeric addresses) only; others' are
// dropped, as if nobody listened. Linux takes such filters from every process; some kernels want
// CAP_NET_ADMIN. ERRORS: kIo (the kernel does not take it), kResourceExhausted (some 1,000 hosts of
// IPv4 or 400 of IPv6 fit into a filter).
[[nodiscard]] Status AttachFilter(const std::vector<int>& sockets,
                                  const std::vector<std::string>& hosts);

}  // namespace engram
