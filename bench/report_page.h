// Reports as one page for people: what was asked, where it was measured, tables and plots.
#pragma once

#include <string>
#include <vector>

#include "bench/report_file.h"

namespace engram::bench {

// What makes figures of these reports doubtful: a machine that was busy before the measurement
// (load above 0.7 of its processors), a build that is not optimised or has sanitizers, changes that
// no commit has, and commits, machines or UCX versions that differ. One sentence each.
[[nodiscard]] std::vector<std::string> WarningsOf(const std::vector<ReportFile>& reports);

// A whole HTML document that needs no script and nothing from elsewhere. Reports of the same
// question come together, plots with the same title in one (bench/plot_merge.h).
// Precondition: !reports.empty().
[[nodiscard]] std::string MakePage(const std::vector<ReportFile>& reports);

}  // namespace engram::bench
