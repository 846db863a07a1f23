#include "bench/load_process.h"

#include <csignal>
#include <cstdlib>

#include <nlohmann/json.hpp>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engram/base/check.h"

namespace engram::bench {
namespace {

// Empty when the other end has closed.
std::string ReadLine(int channel) {
  std::string line;
  char byte = 0;
  while (read(channel, &byte, 1) == 1) {
    if (byte == '\n') return line;
    line += byte;
  }
  return {};
}

bool WriteLine(int channel, const std::string& line) {
  const std::string whole = line + "\n";
  return send(channel, whole.data(), whole.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(whole.size());
}

nlohmann::json PlanToJson(const LoadPlan& plan) {
  return {{"seconds", plan.seconds},
          {"rows", plan.rows},
          {"window", plan.window},
          {"reads_s", plan.reads_s},
          {"wanted_within_ns", plan.wanted_within.count()},
          {"backs_off", plan.backs_off},
          {"pause_us", plan.pause.count()}};
}

LoadPlan PlanOf(const nlohmann::json& json) {
  LoadPlan plan;
  plan.seconds = json.at("seconds");
  plan.rows = json.at("rows");
  plan.window = json.at("window");
  plan.reads_s = json.at("reads_s");
  plan.wanted_within = Duration(json.at("wanted_within_ns").get<int64_t>());
  plan.backs_off = json.at("backs_off");
  plan.pause = std::chrono::microseconds(json.at("pause_us").get<int64_t>());
  return plan;
}

// The child's whole life: its parent is this program, so what it says is well formed.
void Obey(const std::shared_ptr<const TableLayout>& layout, int channel) {
  std::unique_ptr<RawClients> clients;
  while (true) {
    // Sessions are kept up between runs.
    pollfd waiting{channel, POLLIN, 0};
    while (poll(&waiting, 1, 50) == 0) {
      if (clients != nullptr) clients->KeepUp();
    }
    const std::string line = ReadLine(channel);
    if (line.empty()) return;
    const nlohmann::json json = nlohmann::json::parse(line);
    std::string answer;
    if (json.contains("address")) {
      clients.reset();
      auto connected =
          RawClients::Connect({json.at("address"), json.at("pid")}, layout, json.at("clients"));
      if (connected.has_value()) {
        clients = *std::move(connected);
        answer = "connected";
      } else {
        answer = "error " + connected.error().ToString();
      }
    } else {
      ENGRAM_CHECK(clients != nullptr);
      answer = clients->Run(PlanOf(json)).ToText();
    }
    if (!WriteLine(channel, answer)) return;
  }
}

}  // namespace

Result<std::unique_ptr<LoadProcess>> LoadProcess::Fork(std::shared_ptr<const TableLayout> layout,
                                                       int nice_by) {
  int channel[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) != 0) {
    return Error(StatusCode::kIo, "socketpair failed");
  }
  const pid_t child = fork();
  if (child < 0) return Error(StatusCode::kIo, "fork failed");
  if (child == 0) {
    close(channel[0]);
    ShareProcessors(/*node=*/false);
    (void)!nice(nice_by);
    Obey(layout, channel[1]);
    _exit(0);
  }
  close(channel[1]);
  return std::unique_ptr<LoadProcess>(new LoadProcess(child, channel[0]));
}

LoadProcess::~LoadProcess() {
  shutdown(channel_, SHUT_RDWR);
  close(channel_);
  kill(child_, SIGTERM);
  waitpid(child_, nullptr, 0);
}

Status LoadProcess::Say(const std::string& line) {
  if (WriteLine(channel_, line)) return {};
  return {StatusCode::kPeerLost, "a load process has ended"};
}

Result<std::string> LoadProcess::Hear() {
  std::string line = ReadLine(channel_);
  if (line.empty()) return Error(StatusCode::kPeerLost, "a load process has ended");
  return line;
}

Status LoadProcess::Connect(const NodeContact& node, uint32_t clients) {
  ENGRAM_RETURN_IF_ERROR(Say(
      nlohmann::json{{"address", node.address}, {"pid", node.pid}, {"clients", clients}}.dump()));
  const auto answer = Hear();
  if (!answer.has_value()) return answer.error();
  if (*answer == "connected") return {};
  return {StatusCode::kUnavailable, "a load process: " + *answer};
}

Status LoadProcess::Start(const LoadPlan& plan) { return Say(PlanToJson(plan).dump()); }

Result<LoadOutcome> LoadProcess::Await() {
  ENGRAM_ASSIGN_OR_RETURN(const std::string answer, Hear());
  return LoadOutcome::FromText(answer);
}

}  // namespace engram::bench
