#include "bench/command.h"

namespace engram::bench {

CLI::Option* AddClusterOptions(CLI::App& command, ClusterOptions& options) {
  CLI::Option* const cluster =
      command
          .add_option(
              "--coordinator", options.coordinators,
              "Measure the cluster of these coordinators: host:port, or several with commas")
          ->delimiter(',');
  AddSecurityFlags(&command, &options.security);
  command.add_option("--zone", options.zone, "Of this host, as the cluster's nodes name theirs")
      ->needs(cluster);
  return cluster;
}

void AddNetworkOptions(CLI::App& command, NetworkOptions& network, CLI::Option* cluster) {
  command
      .add_option("--rate", network.rate,
                  "Put every memory node on a host of its own (network namespaces on this machine, "
                  "needs\nroot) behind a link of this rate, as tc takes it: 10gbit")
      ->excludes(cluster);
  command
      .add_option_function<uint32_t>(
          "--round-trip-us",
          [&network](uint32_t us) { network.round_trip = std::chrono::microseconds(us); },
          "Likewise, with this round trip in microseconds between the client and a node")
      ->check(CLI::Range(0, 1'000'000))
      ->excludes(cluster);
}

void AddRunOptions(CLI::App& command, double& seconds, int& repetitions, uint64_t& seed,
                   std::string& json_file) {
  command.add_option("--seconds", seconds, "Time of one repetition")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  command.add_option("--repetitions", repetitions, "The medians of these are shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.add_option("--seed", seed, "Of the tokens")->capture_default_str();
  command.add_option("--json", json_file, "Write the report here");
}

void AddNetworkSettings(const NetworkOptions& network, Report* report) {
  report->AddSetting("rate", network.rate);
  report->AddSetting("round_trip_us", network.round_trip.count());
}

}  // namespace engram::bench
