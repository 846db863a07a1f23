#include "bench/command.h"

namespace engram::bench {

CLI::Option* AddClusterOptions(CLI::App& command, std::vector<std::string>& coordinators,
                               std::string& zone) {
  CLI::Option* const cluster =
      command
          .add_option(
              "--coordinator", coordinators,
              "Measure the cluster of these coordinators: host:port, or several with commas")
          ->delimiter(',');
  command.add_option("--zone", zone, "Of this host, as the cluster's nodes name theirs")
      ->needs(cluster);
  return cluster;
}

}  // namespace engram::bench
