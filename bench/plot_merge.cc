#include "bench/plot_merge.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace engram::bench {
namespace {

bool ShowTheSame(const Plot& a, const Plot& b) {
  const auto key = [](const Plot& plot) {
    return std::tie(plot.title, plot.kind, plot.x.label, plot.x.unit, plot.x.scale, plot.y.label,
                    plot.y.unit, plot.y.scale);
  };
  return key(a) == key(b) && a.x.categories.empty() == b.x.categories.empty();
}

struct PlotOfRun {
  size_t run = 0;
  const Plot* plot = nullptr;
};

// Where each category of `from` is in `into`, which gets those that it lacks.
std::vector<double> PlacesIn(std::vector<std::string>* into, const std::vector<std::string>& from) {
  std::vector<double> places;
  for (const std::string& category : from) {
    const auto found = std::find(into->begin(), into->end(), category);
    places.push_back(static_cast<double>(found - into->begin()));
    if (found == into->end()) into->push_back(category);
  }
  return places;
}

size_t ColourOf(const std::string& name, std::vector<std::string>* names) {
  const auto found = std::find(names->begin(), names->end(), name);
  const auto colour = static_cast<size_t>(found - names->begin());
  if (found == names->end()) names->push_back(name);
  return colour;
}

bool AllHave(const std::vector<PlotOfRun>& same, const Limit& limit) {
  return std::all_of(same.begin(), same.end(), [&](const PlotOfRun& one) {
    const std::vector<Limit>& limits = one.plot->limits;
    return std::any_of(limits.begin(), limits.end(), [&](const Limit& other) {
      return other.label == limit.label && other.y == limit.y;
    });
  });
}

MergedPlot Merge(const std::vector<PlotOfRun>& same, const std::vector<RunPlots>& runs) {
  MergedPlot merged;
  merged.plot = *same.front().plot;
  if (same.size() == 1 && runs.size() == 1) {
    for (size_t i = 0; i < merged.plot.series.size(); ++i) merged.styles.push_back({i, 0});
    return merged;
  }
  merged.plot.series.clear();
  merged.plot.limits.clear();
  const bool one_series = std::all_of(
      same.begin(), same.end(), [](const PlotOfRun& one) { return one.plot->series.size() <= 1; });
  std::vector<std::string> names;
  std::vector<std::pair<SeriesStyle, Series>> all;
  for (size_t i = 0; i < same.size(); ++i) {
    const auto [run, plot] = same[i];
    const std::string& run_name = runs[run].run;
    const std::vector<double> places = PlacesIn(&merged.plot.x.categories, plot->x.categories);
    for (Series series : plot->series) {
      // Where a run has but one series, runs are told apart by colour.
      const SeriesStyle style =
          one_series ? SeriesStyle{i, 0} : SeriesStyle{ColourOf(series.name, &names), i};
      series.name = one_series ? run_name : series.name + " \u2013 " + run_name;
      if (!places.empty()) {
        for (Point& point : series.points) point.x = places[static_cast<size_t>(point.x)];
      }
      all.emplace_back(style, std::move(series));
    }
    for (const Limit& limit : plot->limits) {
      const bool of_all = AllHave(same, limit);
      if (of_all && i > 0) continue;
      merged.plot.limits.push_back(
          {of_all ? limit.label : limit.label + " \u2013 " + run_name, limit.y});
    }
  }
  // What is compared stands beside each other.
  std::stable_sort(all.begin(), all.end(),
                   [](const auto& a, const auto& b) { return a.first.colour < b.first.colour; });
  for (auto& [style, series] : all) {
    merged.styles.push_back(style);
    merged.plot.series.push_back(std::move(series));
  }
  return merged;
}

}  // namespace

std::vector<MergedPlot> MergePlots(const std::vector<RunPlots>& runs) {
  std::vector<std::vector<PlotOfRun>> groups;
  for (size_t run = 0; run < runs.size(); ++run) {
    for (const Plot& plot : runs[run].plots) {
      const auto found = std::find_if(groups.begin(), groups.end(), [&](const auto& group) {
        // A run that has it twice shows it twice.
        return ShowTheSame(*group.front().plot, plot) && group.back().run != run;
      });
      if (found == groups.end()) {
        groups.push_back({{run, &plot}});
      } else {
        found->push_back({run, &plot});
      }
    }
  }
  std::vector<MergedPlot> merged;
  merged.reserve(groups.size());
  for (const std::vector<PlotOfRun>& group : groups) merged.push_back(Merge(group, runs));
  return merged;
}

}  // namespace engram::bench
