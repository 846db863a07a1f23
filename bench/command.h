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

#include "engram/base/status.h"

namespace engram::bench {

void AddHashCommand(CLI::App& app, Status& outcome);
void AddLoadCommand(CLI::App& app, Status& outcome);
void AddPeersCommand(CLI::App& app, Status& outcome);
void AddPlacementCommand(CLI::App& app, Status& outcome);
void AddPrefetchCommand(CLI::App& app, Status& outcome);
void AddReadCommand(CLI::App& app, Status& outcome);
// No question: shows the reports of the others.
void AddReportCommand(CLI::App& app, Status& outcome);

// --coordinator and --zone of a question that can be asked of a cluster that is there. Returns
// --coordinator, which options of own nodes exclude. Both arguments must outlive the parsing.
CLI::Option* AddClusterOptions(CLI::App& command, std::vector<std::string>& coordinators,
                               std::string& zone);

}  // namespace engram::bench
