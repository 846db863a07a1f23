// The subcommands of engram-bench: one file and one function for each question.
//
// To add one: write bench/<name>.cc with `void Add<Name>Command(CLI::App& app, Status& outcome)`
// that adds a subcommand whose callback runs the measurement, prints a table (bench/table_text.h),
// writes a Report with tables and plots (bench/report.h) where --json asks for one and sets
// `outcome`; declare it here, call it in main.cc and list the file in CMakeLists.txt.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "bench/host_network.h"
#include "bench/report.h"
#include "engram/base/status.h"
#include "engram/security/security_flags.h"

namespace engram::bench {

void AddHashCommand(CLI::App& app, Status& outcome);
void AddHostsCommand(CLI::App& app, Status& outcome);
void AddLoadCommand(CLI::App& app, Status& outcome);
void AddOffloadCommand(CLI::App& app, Status& outcome);
void AddPeersCommand(CLI::App& app, Status& outcome);
void AddPlacementCommand(CLI::App& app, Status& outcome);
void AddPrefetchCommand(CLI::App& app, Status& outcome);
void AddPressureCommand(CLI::App& app, Status& outcome);
void AddReadCommand(CLI::App& app, Status& outcome);
void AddScaleCommand(CLI::App& app, Status& outcome);
// No question: shows the reports of the others.
void AddReportCommand(CLI::App& app, Status& outcome);

// A cluster that is there.
struct ClusterOptions {
  std::vector<std::string> coordinators;  // empty: nodes of its own
  std::string zone;                       // of this host
  SecurityFlags security;
};
// Of a question that can be asked of a cluster. Returns --coordinator, which options of own nodes
// exclude. `cluster` must outlive the parsing.
CLI::Option* AddClusterOptions(CLI::App& command, ClusterOptions& cluster);

// --rate and --round-trip-us of a question whose own nodes may be on hosts of their own. `network`
// must outlive the parsing; `cluster` is AddClusterOptions'.
void AddNetworkOptions(CLI::App& command, NetworkOptions& network, CLI::Option* cluster);
// --seconds, --repetitions, --seed and --json of a question that repeats. All must outlive the
// parsing.
void AddRunOptions(CLI::App& command, double& seconds, int& repetitions, uint64_t& seed,
                   std::string& json_file);
// Settings "rate" and "round_trip_us" of a report.
void AddNetworkSettings(const NetworkOptions& network, Report* report);

}  // namespace engram::bench
