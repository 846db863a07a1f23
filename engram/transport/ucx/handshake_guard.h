// Lets UCX's handshake over TCP come to an end where the peer goes in its midst.
//
// A node's UCX sends its own connection request over the connection that a reader has made, and
// keeps its answer to the reader until that request is acknowledged. If the connection ends before,
// UCX 1.13 and older connects anew, to a reader that is gone, and ends the process where that fails
// (ucp_request_send_state_ff: an assertion that is gone in 1.14, openucx/ucx#8175). So a reader
// killed in its first milliseconds ended its nodes.
//
// In our programs UCX's send(2), recv(2), connect(2) and getpeername(2) are ours, as its accept(2)
// is (port_guard.h). They are the C library's but for one thing: on a connection that ends while
// the acknowledgement is awaited, UCX reads that acknowledgement, and then the end. It sends its
// answer, which fails, and that it takes as the end of one endpoint, as at any later time.
//
// A node's UCX connects to a reader by itself where it does not know the connection that the
// reader made: it counts those of an address and port, and another reader had that port before. If
// the reader goes meanwhile, that connection too counts as made, and ends in the same way.
// docs/decisions/0039-handshake-guard.md.
#pragma once

#include <chrono>
#include <cstddef>

#include "engram/base/clock.h"

namespace engram {

// This process took in the connection `fd`, which is UCX's. Thread-safe. UCX closes it and tells
// nobody: another socket that has its descriptor next is known by its inode.
void GuardHandshake(int fd);

// From now on so are connections that this thread makes, which are all UCX's: of a thread that
// answers peers and has no use for UCX's own retries. Once a thread.
//   stuck_max  the kernel ends one whose peer has taken nothing for so long (PortGuard's is of
//              those that are taken in)
void GuardHandshakesOfThisThread(std::chrono::milliseconds stuck_max);

// Ends connections of this thread's UCX whose acknowledgement has been awaited for so long: the
// peer stands still. UCX keeps its answer to such a peer, and asserts over it where the endpoint or
// the worker is closed. It finds the end at its next progress. Returns how many are awaited still,
// those included.
size_t EndHandshakesOfThisThread(Duration older_than);

}  // namespace engram
