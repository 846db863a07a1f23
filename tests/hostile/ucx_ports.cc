#include "tests/hostile/ucx_ports.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace engram::test {
namespace {

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(port);
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return where;
}

std::set<std::string> SocketInodes(pid_t pid) {
  std::set<std::string> inodes;
  std::error_code error;
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string link = std::filesystem::read_symlink(entry.path(), error).string();
    if (link.starts_with("socket:[")) inodes.insert(link.substr(8, link.size() - 9));
  }
  return inodes;
}

}  // namespace

std::vector<uint16_t> ListeningPorts(pid_t pid, const std::vector<std::string>& known) {
  const std::set<std::string> inodes = SocketInodes(pid);
  std::vector<uint16_t> ports;
  for (const char* const table : {"tcp", "tcp6"}) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/net/" + table);
    std::string line;
    while (std::getline(file, line)) {
      std::istringstream words(line);
      std::vector<std::string> word(10);
      for (std::string& each : word) words >> each;
      if (word[3] != "0A" || !inodes.contains(word[9])) continue;
      const auto port =
          static_cast<uint16_t>(std::stoul(word[1].substr(word[1].rfind(':') + 1), nullptr, 16));
      const std::string suffix = ":" + std::to_string(port);
      const bool is_known =
          std::any_of(known.begin(), known.end(),
                      [&](const std::string& address) { return address.ends_with(suffix); });
      if (!is_known) ports.push_back(port);
    }
  }
  return ports;
}

RecordingRelay::RecordingRelay(uint16_t port) : port_(port) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in where = Loopback(0);
  where.sin_addr.s_addr = htonl(INADDR_ANY);
  socklen_t size = sizeof(where);
  (void)::bind(listener_, reinterpret_cast<const sockaddr*>(&where), size);
  (void)::listen(listener_, 16);
  (void)::getsockname(listener_, reinterpret_cast<sockaddr*>(&where), &size);
  own_port_ = ntohs(where.sin_port);
  thread_ = std::thread([this] { Run(); });
}

RecordingRelay::~RecordingRelay() {
  stop_ = true;
  thread_.join();
  ::close(listener_);
}

std::vector<std::string> RecordingRelay::said() const {
  const std::lock_guard lock(mutex_);
  return said_;
}

void RecordingRelay::Run() {
  struct Pair {
    int caller;
    int callee;
    size_t number;
    bool answered = false;
  };
  std::vector<Pair> pairs;
  std::vector<char> bytes(64 << 10);
  // False: one side has gone.
  const auto pass = [&](int from, int to, std::string* kept, bool* spoke) {
    const ssize_t came = ::recv(from, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (came < 0) return true;
    if (came == 0) return false;
    if (spoke != nullptr) *spoke = true;
    if (kept != nullptr) {
      const std::lock_guard lock(mutex_);
      kept->append(bytes.data(), static_cast<size_t>(came));
    }
    return to < 0 || ::send(to, bytes.data(), static_cast<size_t>(came), MSG_NOSIGNAL) == came;
  };
  while (!stop_) {
    std::vector<pollfd> polls = {{listener_, POLLIN, 0}};
    for (const Pair& pair : pairs) {
      polls.push_back({pair.caller, POLLIN, 0});
      polls.push_back({pair.callee, POLLIN, 0});
    }
    (void)::poll(polls.data(), polls.size(), 20);
    for (size_t i = pairs.size(); i-- > 0;) {
      Pair& pair = pairs[i];
      if (pass(pair.caller, pair.answered ? -1 : pair.callee, &said_[pair.number], nullptr) &&
          pass(pair.callee, pair.caller, nullptr, &pair.answered)) {
        continue;
      }
      ::close(pair.caller);
      ::close(pair.callee);
      pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if ((polls[0].revents & POLLIN) == 0) continue;
    const int caller = ::accept(listener_, nullptr, nullptr);
    const int callee = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in where = Loopback(port_);
    (void)::connect(callee, reinterpret_cast<const sockaddr*>(&where), sizeof(where));
    const std::lock_guard lock(mutex_);
    pairs.push_back({caller, callee, said_.size()});
    said_.emplace_back();
  }
  for (const Pair& pair : pairs) {
    ::close(pair.caller);
    ::close(pair.callee);
  }
}

}  // namespace engram::test
