#include "bench/started_program.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace engram::bench {
namespace {

constexpr uint32_t kListenPollUs = 10'000;
constexpr int kListenPollsMax = 3000;  // 30 s

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

bool Listens(uint16_t port) {
  const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(port);
  const bool listens =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(probe);
  return listens;
}

std::string Because(const std::string& what) { return what + ": " + std::strerror(errno); }

}  // namespace

Result<uint16_t> FreePort() {
  const int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  const bool found = bind(probe, generic, length) == 0 && getsockname(probe, generic, &length) == 0;
  const std::string reason = found ? "" : Because("no free port");
  close(probe);
  if (!found) return Error(StatusCode::kIo, reason);
  return ntohs(address.sin_port);
}

Result<std::string> FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    if (access(name.c_str(), X_OK) == 0) return name;
    return Error(StatusCode::kNotFound, Because(name));
  }
  const char* const path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "/usr/bin:/bin" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    std::string file = std::move(folder);
    file.append("/").append(name);
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return Error(StatusCode::kNotFound, name + " is not installed");
}

Result<StartedProgram> StartedProgram::Start(std::vector<std::string> argv) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string file, FindProgram(argv[0]));
  const int output = memfd_create("engram-bench-program", MFD_CLOEXEC);
  if (output < 0) return Error(StatusCode::kIo, Because("memfd_create"));
  StartedProgram program(argv[0], output);
  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (std::string& argument : argv) arguments.push_back(argument.data());
  arguments.push_back(nullptr);

  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return Error(StatusCode::kIo, Because("fork"));
  if (child == 0) {
    // Only what may be called between fork and exec of a process with threads.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);  // it ended before it was heard of
    const int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    execv(file.c_str(), arguments.data());
    _exit(127);
  }
  program.pid_ = child;
  return program;
}

StartedProgram::StartedProgram(StartedProgram&& other) noexcept
    : name_(std::move(other.name_)),
      output_(std::exchange(other.output_, -1)),
      pid_(std::exchange(other.pid_, -1)) {}

StartedProgram::~StartedProgram() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);  // it keeps nothing that a slower end would save
    waitpid(pid_, nullptr, 0);
  }
  if (output_ >= 0) close(output_);
}

Status StartedProgram::AwaitListening(uint16_t port) {
  for (int i = 0; i < kListenPollsMax; ++i) {
    const bool listens = Listens(port);
    // Asked after: a process that found its port taken has ended, whoever answers there.
    if (pid_ < 0 || waitpid(pid_, nullptr, WNOHANG) != 0) {
      pid_ = -1;
      return {StatusCode::kUnavailable, name_ + " ended while it started: " + LastOutput()};
    }
    if (listens) return {};
    usleep(kListenPollUs);
  }
  return {StatusCode::kDeadlineExceeded, name_ + " did not listen within 30 s: " + LastOutput()};
}

Status StartedProgram::AwaitEnd() {
  int ended = 0;
  while (pid_ > 0 && waitpid(pid_, &ended, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0) return {};
  return {StatusCode::kUnavailable, name_ + " failed: " + LastOutput()};
}

std::string StartedProgram::LastOutput() const {
  std::array<char, 1000> tail{};
  const off_t size = lseek(output_, 0, SEEK_END);
  const off_t from = size > static_cast<off_t>(tail.size()) ? size - tail.size() : 0;
  const ssize_t got = pread(output_, tail.data(), tail.size(), from);
  return got <= 0 ? "it said nothing" : std::string(tail.data(), static_cast<size_t>(got));
}

}  // namespace engram::bench
