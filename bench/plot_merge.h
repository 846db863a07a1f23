// Plots of several runs of one question, brought together where they show the same.
#pragma once

#include <string>
#include <vector>

#include "bench/figures.h"

namespace engram::bench {

// How a series is told from the others: the same series of another run keeps its colour.
struct SeriesStyle {
  size_t colour = 0;
  size_t run = 0;
};

struct MergedPlot {
  Plot plot;
  std::vector<SeriesStyle> styles;  // one for each series of the plot
};

struct RunPlots {
  std::string run;  // such as the stem of the report's file
  std::vector<Plot> plots;
};

// Plots with the same title, kind, axis labels, units and scales become one, in the order of their
// first appearance. With several runs, each series and each limit that only some have says its run.
[[nodiscard]] std::vector<MergedPlot> MergePlots(const std::vector<RunPlots>& runs);

}  // namespace engram::bench
