// Has UCX learn of a lost peer by reading only, not by writing.
//
// UCX 1.13.1 completes a message twice where a write of its rest fails (uct_tcp_ep_sendv: once by
// uct_tcp_ep_handle_disconnected, once by itself) and asserts at the second. So a reader that was
// killed while a node had sent it a part of a long reply could end that node, and a node that went
// a reader, if the write came before the read that would have told of it.
//
// And where what waited for a connection is sent as it is there, and a write of that fails, UCX
// gives the endpoint up in the midst of sending, and asserts: of a reader's first message to a node
// (ucp_wireup_ep_pending_purge), where the connection was reset right after it was made.
//
// In our programs UCX's sendmsg(2) and send(2) are ours (as its accept(2) is: port_guard.h). While
// UCX makes progress, a write that fails because the connection is over, or for want of memory, is
// one that has no room now. The read that follows tells of the end; a want of memory passes, or the
// peer counts as slow. But UCX sends the messages that make and end a connection (handshake_guard)
// again and again while there is no room: of those it is told how they ended.
// docs/decisions/0044-failed-writes.md.
#pragma once

namespace engram {

// While it lives, UCX makes progress on this thread, and the thread's writes to sockets are UCX's:
// what UCX calls back sends nothing by itself, for a write to a lost peer would not fail there.
class SendGuard {
 public:
  SendGuard();
  ~SendGuard();
  SendGuard(const SendGuard&) = delete;
  SendGuard& operator=(const SendGuard&) = delete;

 private:
  const bool outer_;
};

// On this thread, now.
[[nodiscard]] bool UcxMakesProgress();

// A write has failed: where UCX makes progress and reading will tell it of that, errno becomes
// EAGAIN.
void LeaveTheEndToReading();

}  // namespace engram
