// Gives UCX the news of a socket one at a time: what came, or room, never both at once.
//
// UCX 1.13.1 takes both from one event (uct_tcp_iface_handle_events): it reads, and then writes,
// also where reading has ended the connection and freed what it keeps of it.
//
// And where a connection is closed while the kernel has taken a part of a message from our memory,
// UCX gives the rest up and keeps the connection, to tell the peer with a last message that never
// leaves: it looks whether there is room for it for ever after, with all of a processor. So a
// reader that took a little all the time left a node. Such a connection is ended here: the stream
// ends in the midst of a message, nothing more can come over it.
//
// In our programs UCX's epoll_wait(2) is ours, as its sendmsg(2) is (send_guard.h).
// docs/decisions/0046-one-news-at-a-time.md.
#pragma once

namespace engram {

// Every write of this program's that may be UCX's, whatever came of it. Thread-safe.
//   has_rest  it was of the writer's own memory, and the kernel did not take all
void NoteWrite(int fd, bool has_rest);

}  // namespace engram
