// Readers that are killed while they connect: at each of their first sends, as if by SIGKILL.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

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

// One that is free now and that the kernel gives to nobody by itself, in network order; 0 = none.
// Two attacks on one host begin to look at different ones: a node's UCX connects to such a port by
// itself, and should not meet another node's readers there.
in_port_t FreePort() {
  constexpr uint32_t kPorts = 10000;
  for (uint32_t i = 0; i < kPorts; ++i) {
    const auto port =
        static_cast<uint16_t>(20000 + (static_cast<uint32_t>(getpid()) * 97 + i) % kPorts);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    const int probe = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool is_free = probe >= 0 && ::bind(probe, reinterpret_cast<const sockaddr*>(&address),
                                              sizeof(address)) == 0;
    if (probe >= 0) close(probe);
    if (is_free) return address.sin_port;
  }
  return 0;
}

// A reader that ends at its n-th send, n = `send`; -1: it could not be started.
//   port  UCX listens there, in network order; 0 = anywhere
pid_t StartReader(const Victim& victim, uint64_t send, EndOfReader how, in_port_t port) {
  std::vector<std::string> command = victim.command;
  command.insert(command.end(), {"--ends-at-send", std::to_string(send), "--ends-how",
                                 std::to_string(static_cast<int>(how)), "--ucx-port",
                                 std::to_string(ntohs(port))});
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = -1;
  return posix_spawn(&child, argv[0], nullptr, nullptr, argv.data(), environ) == 0 ? child : -1;
}

// One after the other. `port`: of all of them, in network order; 0 = each has its own.
void KillReaders(const Victim& victim, const Order& order, in_port_t port, Tally& tally) {
  for (uint64_t i = 0; order.Goes(tally); ++i) {
    const pid_t child =
        StartReader(victim, 1 + i / 3 % kSendsMax, static_cast<EndOfReader>(i % 3), port);
    int status = 0;
    if (child < 1 || waitpid(child, &status, 0) != child) {
      return tally.Violation("no reader could be started");
    }
    ++tally.messages;
    if (!WIFSIGNALED(status)) {
      tally.Answer(WEXITSTATUS(status) == 0 ? "had sent less, and ended by itself"
                                            : "was not let in");
    } else {
      tally.Answer(WTERMSIG(status) == SIGKILL
                       ? "killed"
                       : "ended by another signal, " + std::to_string(WTERMSIG(status)));
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

// All at once, until the end of the attack.
void StoppedReaders(const Victim& victim, const Order& order, Dice& /*dice*/, Tally& tally) {
  std::vector<pid_t> readers;
  while (order.Goes(tally)) {
    const pid_t child =
        StartReader(victim, 1 + tally.messages++ % kSendsMax, EndOfReader::kStopped, 0);
    if (child < 1) {
      tally.Violation("no reader could be started");
      break;
    }
    readers.push_back(child);
  }
  std::this_thread::sleep_until(order.until);
  for (const pid_t reader : readers) {
    int status = 0;
    const bool stands =
        waitpid(reader, &status, WNOHANG | WUNTRACED) == reader && WIFSTOPPED(status);
    tally.Answer(stands ? "stopped" : "had sent less, and ended by itself");
    if (!stands && WIFEXITED(status)) continue;
    (void)::kill(reader, SIGKILL);
    (void)waitpid(reader, &status, 0);
  }
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
    (void)::kill(getpid(), end_of_reader == EndOfReader::kStopped ? SIGSTOP : SIGKILL);
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
      {"stopped-readers", "readers that stop at one of their first sends, until the end", 0.01,
       StoppedReaders},
  };
}

}  // namespace engram::test
