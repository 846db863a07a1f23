// Readers that are killed while they connect: at each of their first sends, as if by SIGKILL.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

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

void KilledReaders(const Victim& victim, const Order& order, Dice& /*dice*/, Tally& tally) {
  for (uint64_t i = 0; order.Goes(tally); ++i) {
    std::vector<std::string> command = victim.command;
    command.insert(command.end(), {"--ends-at-send", std::to_string(1 + i / 3 % kSendsMax),
                                   "--ends-how", std::to_string(i % 3)});
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

int ReadUntilTheEnd(const Victim& victim, int sends, EndOfReader how) {
  (void)::alarm(30);
  const auto token = victim.Token("reader");
  if (victim.tls() && !token.has_value()) return 1;
  // So that the project's send(2), which calls sendto, is in this program: with a sanitizer, whose
  // library has a send too, nothing else asks for it.
  GuardHandshake(-1);
  end_of_reader = how;
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
  };
}

}  // namespace engram::test
