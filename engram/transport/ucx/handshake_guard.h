// Lets UCX's handshake over TCP come to an end where the peer goes in its midst.
//
// A node's UCX sends its own connection request to a reader, mostly over the connection that the
// reader has made, and keeps its answer to the reader until that request is acknowledged. If the
// connection ends before, UCX connects to the reader by itself: right where the reader lives and
// has closed that connection only. UCX 1.13 and older end the process where it has gone
// (ucp_request_send_state_ff: an assertion that is gone in 1.14, openucx/ucx#8175). So a reader
// killed in its first milliseconds ended its nodes.
//
// In our programs UCX's send(2), recv(2), connect(2) and getpeername(2) are ours, as its accept(2)
// is (port_guard.h). They are the C library's but for one thing: a connection that UCX cannot make
// counts as made, and on it, as on one that was made anew too often or that we end, UCX reads the
// acknowledgement that it awaits, and then the end. It sends its answer, which fails, and that it
// takes as the end of one endpoint, as at any later time. docs/decisions/0039-handshake-guard.md.
#pragma once

#include <chrono>
#include <cstddef>

#include "engram/base/clock.h"

namespace engram {

// This process took in the connection `fd`, which is UCX's. Thread-safe. UCX closes it and tells
// nobody: another socket that has its descriptor next is known by its inode.
void GuardHandshake(int fd);

// For a thread that answers peers: the connections that it makes from now on, which are all UCX's,
// are guarded too, and those that were taken in. On other threads UCX is left alone. Once a thread.
//   stuck_max  the kernel ends one whose peer has taken nothing for so long (PortGuard's is of
//              those that are taken in)
void GuardHandshakesOfThisThread(std::chrono::milliseconds stuck_max);

// Ends connections of this thread's UCX whose acknowledgement has been awaited for so long: the
// peer stands still. UCX keeps its answer to such a peer, and asserts over it where the endpoint or
// the worker is closed. It finds the end at its next progress. Returns how many are awaited still,
// those included.
size_t EndHandshakesOfThisThread(Duration older_than);

}  // namespace engram
