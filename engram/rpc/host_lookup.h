// What addresses a host's name has.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/rpc/host_port.h"

namespace engram {

// A name that nobody knows may take the system 10 s and more (a DNS server that does not answer;
// Docker's, once the container is gone), and Asio looks names up one after another, so that hosts
// that are there would wait for one that is not. Here each name is looked up on a thread of its
// own, shared by all who ask for it meanwhile: there are as many threads as such names. They are
// not waited for at the process's end.
//   executor  that the coroutine runs on: a strand or a single-threaded io_context
//   until     the caller is told kDeadlineExceeded then; the thread goes on
// ERRORS: kDeadlineExceeded, kUnavailable with the system's reason. Numbers never fail.
[[nodiscard]] boost::asio::awaitable<Result<boost::asio::ip::tcp::resolver::results_type>>
LookUpHost(boost::asio::any_io_executor executor, HostPort host, MonotonicTime until);

}  // namespace engram
