#include "bench/host_network.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "bench/started_program.h"

namespace engram::bench {
namespace {

constexpr int kNamespaces = CLONE_NEWNET | CLONE_NEWIPC;

Status Refused(const std::string& what) {
  return {StatusCode::kUnavailable, what + ": " + std::strerror(errno) +
                                        "; hosts on one machine need root, in a container "
                                        "that is privileged"};
}

// In the network namespace that this thread is in.
Status Shell(const std::string& script) {
  auto shell = StartedProgram::Start({"sh", "-ec", script});
  if (!shell.has_value()) return shell.error();
  return shell->AwaitEnd().WithContext("setting up the hosts' network");
}

Status SetNamespace(int fd, int kind) {
  if (setns(fd, kind) == 0) return {};
  return Refused("setns");
}

// What a child can open this process's descriptor as.
std::string PathOf(int fd) {
  return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fd);
}

// UCX learns from /sys which devices there are: it must show those of this network namespace.
Status ShowOwnDevices() {
  if (mount("none", "/sys", "sysfs", 0, nullptr) == 0) return {};
  return Refused("mounting /sys");
}

// Below this, tc cuts segments up before it lets them go.
constexpr const char* kBurst = "256kb";

std::string RateLimit(const std::string& device, const std::string& rate) {
  if (rate.empty()) return "";
  return "tc qdisc add dev " + device + " root tbf rate " + rate + " burst " + kBurst +
         " latency 100ms\n";
}

}  // namespace

Status CheckNetwork(const NetworkOptions& options, const std::string& transport) {
  if (options.any() && transport != "tcp") {
    return {StatusCode::kInvalidArgument,
            "--rate and --round-trip-us make a network: use --transport tcp"};
  }
  // It goes into a shell's script.
  const auto is_part = [](unsigned char c) { return std::isalnum(c) != 0 || c == '.'; };
  if (std::all_of(options.rate.begin(), options.rate.end(), is_part)) return {};
  return {StatusCode::kInvalidArgument, "--rate " + options.rate + ": a rate is like 10gbit"};
}

std::string HostNetwork::AddressOf(uint32_t host) { return "10.77.0." + std::to_string(host + 1); }

Result<std::unique_ptr<HostNetwork>> HostNetwork::Create(const NetworkOptions& options,
                                                         uint32_t host_count) {
  ENGRAM_TRY(CheckNetwork(options, "tcp"));
  std::unique_ptr<HostNetwork> network(new HostNetwork(options));
  if (unshare(CLONE_NEWNS) != 0) return Error(Refused("unshare"));
  // What is mounted over it is for this process alone. (Not "/", which need not be a mount.)
  if (mount("none", "/sys", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return Error(Refused("making /sys private"));
  }
  ENGRAM_TRY(network->AddSwitch());
  for (uint32_t host = 0; host < host_count; ++host) ENGRAM_TRY(network->AddHost(host));
  ENGRAM_TRY(network->Enter(0));
  return network;
}

HostNetwork::~HostNetwork() {
  relays_.clear();
  hosts_.push_back(switch_);
  for (const Namespaces& namespaces : hosts_) {
    if (namespaces.net >= 0) close(namespaces.net);
    if (namespaces.ipc >= 0) close(namespaces.ipc);
  }
}

Status HostNetwork::Enter(uint32_t host) const {
  ENGRAM_RETURN_IF_ERROR(SetNamespace(hosts_[host].net, CLONE_NEWNET));
  ENGRAM_RETURN_IF_ERROR(SetNamespace(hosts_[host].ipc, CLONE_NEWIPC));
  if (host != 0 && unshare(CLONE_NEWNS) != 0) return Refused("unshare");
  return ShowOwnDevices();
}

Status HostNetwork::AddSwitch() {
  if (unshare(kNamespaces) != 0) return Refused("unshare");
  switch_ = {open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC),
             open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC)};
  if (switch_.net < 0 || switch_.ipc < 0) return Refused("/proc/self/ns");
  return Shell("ip link set lo up\nip link add br0 type bridge\nip link set br0 up\n");
}

Status HostNetwork::AddHost(uint32_t host) {
  if (unshare(kNamespaces) != 0) return Refused("unshare");
  const Namespaces& made =
      hosts_.emplace_back(Namespaces{open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC),
                                     open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC)});
  if (made.net < 0 || made.ipc < 0) return Refused("/proc/self/ns");
  const std::string port = "h" + std::to_string(host);
  ENGRAM_RETURN_IF_ERROR(Connect(made, port, host != 0 && options_.round_trip.count() > 0));
  // As hosts of a cluster should have it, whatever this one has (TcpPacingWarning).
  constexpr const char* kCongestionControl =
      "echo cubic >/proc/sys/net/ipv4/tcp_congestion_control || true\n";
  ENGRAM_RETURN_IF_ERROR(Shell("ip link set lo up\nip addr add " + AddressOf(host) +
                               "/24 dev eth0\nip link set eth0 up\n" + kCongestionControl +
                               RateLimit("eth0", options_.rate)));
  ENGRAM_RETURN_IF_ERROR(SetNamespace(switch_.net, CLONE_NEWNET));
  return Shell("ip link set " + port + " master br0 up\n" + RateLimit(port, options_.rate));
}

Status HostNetwork::Connect(const Namespaces& host_namespaces, const std::string& port,
                            bool delayed) {
  if (!delayed) {
    return Shell("ip link add eth0 type veth peer name " + port + "\nip link set " + port +
                 " netns " + PathOf(switch_.net) + "\n");
  }
  const auto here = OpenTap("eth0");
  if (!here.has_value()) return here.error();
  ENGRAM_RETURN_IF_ERROR(SetNamespace(switch_.net, CLONE_NEWNET));
  const auto there = OpenTap(port.c_str());
  if (!there.has_value()) return there.error();
  auto relay = DelayRelay::Start(*here, *there, options_.round_trip / 2);
  if (!relay.has_value()) return relay.error();
  relays_.push_back(*std::move(relay));
  return SetNamespace(host_namespaces.net, CLONE_NEWNET);
}

}  // namespace engram::bench
