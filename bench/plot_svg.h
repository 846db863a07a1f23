// A plot as HTML: a figure with its title, a legend and an inline SVG picture.
#pragma once

#include <string>
#include <string_view>

#include "bench/plot_merge.h"

namespace engram::bench {

// Needs no script and nothing from elsewhere; colours come from kPlotStyle. All texts are escaped.
[[nodiscard]] std::string DrawPlot(const MergedPlot& plot);

// CSS for what DrawPlot makes, in a light and a dark colour scheme.
extern const std::string_view kPlotStyle;

}  // namespace engram::bench
