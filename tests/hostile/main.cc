// engram-hostile-peer: attacks a running cluster of ours, and tells what it was given.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <google/protobuf/stubs/logging.h>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "engram/rpc/host_port.h"
#include "tests/hostile/attack.h"
#include "tests/hostile/wire.h"

namespace engram::test {
namespace {

struct Flags {
  Victim victim;
  std::string certs;
  std::string foreign;
  std::vector<std::string> attacks;
  std::string left_out;
  uint64_t messages = 10000;
  uint64_t seconds = 600;
  uint64_t seed = 1;
  std::string json;
  int ends_at_send = 0;
  int ends_how = 0;
  uint16_t ucx_port = 0;
};

std::vector<Attack> AllAttacks() {
  std::vector<Attack> all;
  for (const auto& some : {ByteAttacks(), CallAttacks(), DataAttacks(), SessionAttacks(),
                           PortAttacks(), ReaderAttacks()}) {
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

std::string ListOfAttacks() {
  std::string text = "Attacks:\n";
  for (const Attack& attack : AllAttacks()) {
    text += "  " + std::string(attack.name) + std::string(18 - attack.name.size(), ' ') +
            std::string(attack.about) + "\n";
  }
  return text;
}

Status LoadHolders(const Flags& flags, Victim* victim) {
  if (flags.certs.empty()) return {};
  for (const char* const name : {"reader", "other", "operator", "impostor", "coordinator"}) {
    auto identity = TlsIdentity::Load(flags.certs + "/" + name);
    if (!identity.has_value()) return identity.error();
    victim->holders[name].identity = *std::move(identity);
  }
  auto foreign = TlsIdentity::Load(flags.foreign);
  if (!foreign.has_value()) return foreign.error();
  victim->holders["foreign"].identity = *std::move(foreign);
  return {};
}

// Whether both processes still take connections.
void LookForLife(const Victim& victim, Tally& tally) {
  for (const std::string& address : {victim.coordinator, victim.node}) {
    Wire::Options options;
    options.tls = victim.tls();
    options.identity = victim.holder("reader").identity;
    bool alive = false;
    for (int i = 0; i < 20 && !alive; ++i) alive = Wire::Connect(address, options) != nullptr;
    if (!alive) tally.Violation("nobody answers at " + address + " any more");
  }
}

std::vector<std::string> CommandOfAnother(const Flags& flags) {
  std::vector<std::string> command = {"/proc/self/exe",
                                      "--coordinator",
                                      flags.victim.coordinator,
                                      "--coordinator-http",
                                      flags.victim.coordinator_http,
                                      "--node",
                                      flags.victim.node,
                                      "--node-http",
                                      flags.victim.node_http};
  if (!flags.certs.empty()) {
    command.insert(command.end(), {"--certs", flags.certs, "--foreign-cert", flags.foreign});
  }
  return command;
}

nlohmann::ordered_json Run(const Flags& flags, const std::vector<Attack>& chosen) {
  double shares = 0;
  for (const Attack& attack : chosen) shares += attack.share;
  nlohmann::ordered_json report;
  uint64_t messages = 0;
  uint64_t given = 0;
  bool alive = true;
  for (const Attack& attack : chosen) {
    const auto began = std::chrono::steady_clock::now();
    Order order;
    order.messages =
        shares == 0
            ? flags.messages
            : std::max<uint64_t>(1, static_cast<uint64_t>(static_cast<double>(flags.messages) *
                                                          attack.share / shares));
    order.until = began + std::chrono::seconds(flags.seconds);
    Dice dice(flags.seed * 1000003 + std::hash<std::string_view>{}(attack.name));
    Tally tally;
    if (alive) attack.run(flags.victim, order, dice, tally);
    LookForLife(flags.victim, tally);
    alive = alive && (tally.violations.empty() || !tally.violations.back().starts_with("nobody"));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    nlohmann::ordered_json& one = report["attacks"][std::string(attack.name)];
    one["messages"] = tally.messages;
    one["seconds"] = took.count();
    one["answers"] = tally.answers;
    one["given"] = tally.given;
    one["violations"] = tally.violations;
    messages += tally.messages;
    given += tally.given;
    std::printf("%-18s %9lu messages %7.1f s  given %lu  %s\n", std::string(attack.name).c_str(),
                tally.messages, took.count(), tally.given,
                nlohmann::json(tally.answers).dump().c_str());
    for (const std::string& violation : tally.violations)
      std::printf("  !! %s\n", violation.c_str());
    std::fflush(stdout);
  }
  report["seed"] = flags.seed;
  report["messages"] = messages;
  report["given"] = given;
  return report;
}

}  // namespace
}  // namespace engram::test

int main(int argc, char** argv) {
  using namespace engram::test;
  CLI::App app(
      "Attacks a cluster: sends what no reader, node or operator of ours would, and counts what "
      "comes\n"
      "back. Ends with 1 when it was given anything that it has no right to, or nobody answers "
      "any\n"
      "more. For clusters of your own only.");
  Flags flags;
  app.footer(
      ListOfAttacks() +
      "\nexample: engram-hostile-peer --coordinator 127.0.0.1:7000 --coordinator-http "
      "127.0.0.1:7001\n  --node 127.0.0.1:7100 --node-http 127.0.0.1:7101 --messages 100000\n");
  app.add_option("--coordinator", flags.victim.coordinator, "HOST:PORT")->required();
  app.add_option("--coordinator-http", flags.victim.coordinator_http, "HOST:PORT")->required();
  app.add_option("--node", flags.victim.node, "HOST:PORT of a memory node's data service")
      ->required();
  app.add_option("--node-http", flags.victim.node_http, "HOST:PORT")->required();
  app.add_option("--node-pid", flags.victim.node_pid,
                 "The node's process on this host, for attacks on the ports that UCX opens");
  app.add_option(
      "--certs", flags.certs,
      "Folder with those of reader, other, operator, impostor and coordinator; none: the "
      "cluster is in development mode");
  app.add_option("--foreign-cert", flags.foreign, "An operator's folder, of another CA");
  app.add_option("--attack", flags.attacks, "Only these, in this order; all, when left out");
  app.add_option("--without", flags.left_out, "All but these, with commas between");
  app.add_option("--messages", flags.messages, "Of all attacks together")->capture_default_str();
  app.add_option("--seconds", flags.seconds, "At most for each attack")->capture_default_str();
  app.add_option("--seed", flags.seed, "The same seed sends the same")->capture_default_str();
  app.add_option("--json", flags.json, "Write the report here");
  app.add_option(
         "--ends-at-send", flags.ends_at_send,
         "No attack: one reader, killed at this send of its own (killed-readers starts them)")
      ->check(CLI::PositiveNumber);
  app.add_option("--ends-how", flags.ends_how,
                 "0 instead of that send, 1 after it, 2 after it with a reset, 3 stopped after it")
      ->check(CLI::Range(0, 3));
  app.add_option("--ucx-port", flags.ucx_port, "UCX of that reader listens there; 0 = anywhere")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  (void)::signal(SIGPIPE, SIG_IGN);
  (void)google::protobuf::SetLogHandler(nullptr);  // of the texts that are none
  spdlog::set_default_logger(spdlog::stderr_color_mt("hostile"));
  spdlog::set_level(spdlog::level::err);
  const auto without = engram::SplitAddresses(flags.left_out);
  std::vector<Attack> chosen;
  const auto all = AllAttacks();
  for (const std::string& name : flags.attacks) {
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const Attack& attack) { return attack.name == name; });
    if (found == all.end()) {
      std::fprintf(stderr, "no attack '%s'\n%s", name.c_str(), ListOfAttacks().c_str());
      return 2;
    }
    chosen.push_back(*found);
  }
  if (chosen.empty()) {
    std::copy_if(all.begin(), all.end(), std::back_inserter(chosen), [&](const Attack& attack) {
      return std::find(without.begin(), without.end(), attack.name) == without.end();
    });
  }
  engram::Status status = LoadHolders(flags, &flags.victim);
  if (status.ok()) status = Describe(flags.victim.holder("reader"), &flags.victim);
  if (!status.ok()) {
    std::fprintf(stderr, "engram-hostile-peer: %s\n", status.ToString().c_str());
    return 2;
  }
  if (flags.ends_at_send > 0) {
    return ReadUntilTheEnd(flags.victim, flags.ends_at_send,
                           static_cast<EndOfReader>(flags.ends_how), flags.ucx_port);
  }
  flags.victim.command = CommandOfAnother(flags);
  const auto report = Run(flags, chosen);
  if (!flags.json.empty()) std::ofstream(flags.json) << report.dump(1) << "\n";
  return report["given"] == 0 ? 0 : 1;
}
