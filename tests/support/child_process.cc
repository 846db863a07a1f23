#include "tests/support/child_process.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace engram::test {
namespace {

Result<pid_t> Spawn(const std::vector<std::string>& argv, const std::filesystem::path& out,
                    const std::filesystem::path& err) {
  std::vector<char*> arguments;
  arguments.reserve(argv.size() + 1);
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const int flags = O_WRONLY | O_CREAT | O_APPEND;
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), flags, 0644);
  if (err == out) {
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), flags, 0644);
  }
  pid_t pid = -1;
  const int error =
      posix_spawn(&pid, argv[0].c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return Error(StatusCode::kIo, "cannot start " + argv[0] + ": " + std::strerror(error));
  }
  return pid;
}

void ExpectNoSanitizerReport(const std::string& output) {
  // The forms of TSan and ASan, and of UBSan.
  for (const char* form : {"Sanitizer: ", ": runtime error: "}) {
    const size_t found = output.find(form);
    if (found == std::string::npos) continue;
    const size_t from = found > 200 ? found - 200 : 0;
    ADD_FAILURE() << "a child process reported:\n" << output.substr(from, 8000);
    return;
  }
}

}  // namespace

Result<ChildProcess> ChildProcess::Start(const std::vector<std::string>& argv,
                                         const std::filesystem::path& log_file) {
  ENGRAM_ASSIGN_OR_RETURN(const pid_t pid, Spawn(argv, log_file, log_file));
  ChildProcess child;
  child.pid_ = pid;
  child.log_file_ = log_file;
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      log_file_(std::move(other.log_file_)),
      exit_status_(other.exit_status_) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  if (this != &other) {
    if (pid_ > 0) Stop(SIGKILL);
    pid_ = std::exchange(other.pid_, -1);
    log_file_ = std::move(other.log_file_);
    exit_status_ = other.exit_status_;
  }
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0) Stop(SIGKILL);
}

bool ChildProcess::Reap(bool block) {
  if (pid_ <= 0) return true;
  int status = 0;
  pid_t reaped = -1;
  do {
    reaped = waitpid(pid_, &status, block ? 0 : WNOHANG);
  } while (reaped < 0 && errno == EINTR);
  if (reaped == 0) return false;
  exit_status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  ExpectNoSanitizerReport(ReadFile(log_file_));
  return true;
}

bool ChildProcess::running() { return !Reap(false); }

void ChildProcess::Signal(int signal) {
  if (pid_ > 0) kill(pid_, signal);
}

int ChildProcess::Wait(std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!Reap(false)) {
    if (std::chrono::steady_clock::now() >= until) return -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return exit_status_;
}

int ChildProcess::Stop(int signal, std::chrono::milliseconds patience) {
  Signal(signal);
  if (Wait(patience) >= 0 || pid_ <= 0) return exit_status_;
  Signal(SIGKILL);
  Reap(true);
  return exit_status_;
}

CommandOutput RunCommand(const std::vector<std::string>& argv, std::chrono::milliseconds patience) {
  const ScratchDir scratch;
  CommandOutput output;
  auto pid = Spawn(argv, scratch.path() / "out", scratch.path() / "err");
  if (!pid.has_value()) {
    output.err = pid.error().ToString();
    return output;
  }
  const auto until = std::chrono::steady_clock::now() + patience;
  int status = 0;
  while (waitpid(*pid, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() >= until) {
      kill(*pid, SIGKILL);
      waitpid(*pid, &status, 0);
      output.err = argv[0] + " ran longer than it may; it was killed\n";
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  output.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  output.out = ReadFile(scratch.path() / "out");
  output.err += ReadFile(scratch.path() / "err");
  ExpectNoSanitizerReport(output.err);
  return output;
}

std::string ReadFile(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

ScratchDir::ScratchDir() {
  std::string name = (std::filesystem::temp_directory_path() / "engram-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) std::abort();
  path_ = name;
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace engram::test
