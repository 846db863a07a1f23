// Has UCX learn of a lost peer by reading only, not by writing.
//
// UCX 1.13.1 completes a message twice where a write of its rest fails (uct_tcp_ep_sendv: once by
// uct_tcp_ep_handle_disconnected, once by itself) and asserts at the second. So a reader that was
// killed while a node had sent it a part of a long reply could end that node, and a node that went
// a reader, if the write came before the read that would have told of it.
//
// In our programs UCX's sendmsg(2) is ours (as its accept(2) is: port_guard.h). While UCX makes
// progress, a write that fails because the connection is over, or for want of memory, is one that
// has no room now. The read that follows tells of the end; a want of memory passes, or the peer
// counts as slow. docs/decisions/0044-failed-writes.md.
#pragma once

namespace engram {

// While it lives, this thread's calls of sendmsg(2) are UCX's: what UCX calls back sends nothing by
// itself, for a write to a lost peer would not fail there.
class SendGuard {
 public:
  SendGuard();
  ~SendGuard();
  SendGuard(const SendGuard&) = delete;
  SendGuard& operator=(const SendGuard&) = delete;

 private:
  const bool outer_;
};

}  // namespace engram
