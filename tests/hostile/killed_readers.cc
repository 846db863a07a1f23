// Readers that are killed while they connect: at each of their first sends, as if by SIGKILL.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engram/transport/ucx/handshake_guard.h"
#include "tests/hostile/attack.h"
#include "tests/support/rude_peer.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;

// TLS, session.Open, UCX's handshake and a lease take 7, or 5 without TLS.
constexpr int kSendsMax = 8;

std::atomic<int> sends_left{0};  // until this process ends; 0 = it lives
EndOfReader end_of_reader = EndOfReader::kBefore;
in_port_t ucx_port = 0;  // that UCX listens at here, in network order; 0 = as the kernel gives it

// One that is free now, in network order.
in_port_t FreePort() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof(address);
  const int probe = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool found = probe >= 0 &&
                     ::bind(probe, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     getsockname(probe, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (probe >= 0) close(probe);
  return found ? address.sin_port : 0;
}

// `port`: of all of them, in network order; 0 = each has its own.
void KillReaders(const Victim& victim, const Order& order, in_port_t port, Tally& tally) {
  for (uint64_t i = 0; order.Goes(tally); ++i) {
    std::vector<std::string> command = victim.command;
    command.insert(command.end(),
                   {"--ends-at-send", std::to_string(1 + i / 3 % kSendsMax), "--ends-how",
                    std::to_string(i % 3), "--ucx-port", std::to_string(ntohs(port))});
    std::vector<char*> argv;
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t child = -1;
    if (posix_spawn(&child, argv[0], nullptr, nullptr, argv.data(), environ) != 0) {
      return tally.Violation("no reader could be started");
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) return tally.Violation("a reader was not found");
    ++tally.messages;
    if (!WIFSIGNALED(status)) {
      tally.Answer(WEXITSTATUS(status) == 0 ? "had sent less, and ended by itself"
                                            : "was not let in");
    } else {
      tally.Answer(WTERMSIG(status) == SIGKILL ? "killed" : "ended by another signal");
    }
  }
}

void KilledReaders(const Victim& victim, const Order& order, Dice& /*dice*/, Tally& tally) {
  KillReaders(victim, order, 0, tally);
}

// A node's UCX counts the connections of a port, and does not find the one that the second reader
// of that port has made: it makes another by itself.
void KilledAgain(const Victim& victim, const Order& order, Dice& /*dice*/, Tally& tally) {
  const in_port_t port = FreePort();
  if (port == 0) return tally.Violation("no port is free");
  KillReaders(victim, order, port, tally);
}

}  // namespace

// In this program the functions of the project and of UCX that send come here.
extern "C" ssize_t sendto(int fd, const void* data, size_t size, int flags, const sockaddr* to,
                          socklen_t to_size) {
  const bool is_last = sends_left.load() > 0 && sends_left.fetch_sub(1) == 1;
  if (is_last && end_of_reader == EndOfReader::kBefore) (void)::kill(getpid(), SIGKILL);
  const ssize_t sent = ::syscall(SYS_sendto, fd, data, size, flags, to, to_size);
  if (is_last) {
    const linger at_once{1, 0};
    if (end_of_reader == EndOfReader::kReset) {
      (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    }
    (void)::kill(getpid(), SIGKILL);
  }
  return sent;
}

// So does UCX's choice of a port.
extern "C" int bind(int fd, const sockaddr* address, socklen_t size) {
  sockaddr_in there{};
  if (ucx_port != 0 && address->sa_family == AF_INET && size >= sizeof(there)) {
    std::memcpy(&there, address, sizeof(there));
    if (there.sin_port == 0) {
      const int on = 1;  // for those of the last reader may be in TIME_WAIT
      (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
      there.sin_port = ucx_port;
      address = reinterpret_cast<const sockaddr*>(&there);
    }
  }
  return static_cast<int>(::syscall(SYS_bind, fd, address, size));
}

int ReadUntilTheEnd(const Victim& victim, int sends, EndOfReader how, uint16_t port) {
  (void)::alarm(30);
  const auto token = victim.Token("reader");
  if (victim.tls() && !token.has_value()) return 1;
  // So that the project's send(2), which calls sendto, is in this program: with a sanitizer, whose
  // library has a send too, nothing else asks for it.
  GuardHandshake(-1);
  end_of_reader = how;
  ucx_port = htons(port);
  sends_left = sends;
  const auto peer = RudePeer::Create(
      victim.target, {.security = victim.holder("reader"), .token = token.value_or("")});
  if (!peer.has_value()) return 1;
  (*peer)->Send(GatherMessageId::kLeaseRequest, (*peer)->GoodLease(1), 0);
  (void)(*peer)->Drive([&] { return !(*peer)->grants.empty(); }, milliseconds(500));
  return 0;
}

std::vector<Attack> ReaderAttacks() {
  return {
      {"killed-readers", "readers that are killed at each of their first sends", 0.05,
       KilledReaders},
      {"killed-again", "the same, and all of them have one port of UCX's", 0.05, KilledAgain},
  };
}

}  // namespace engram::test
