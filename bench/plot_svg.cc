#include "bench/plot_svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>
#include <set>

#include "bench/axis_scale.h"
#include "bench/html_text.h"
#include "bench/number_text.h"

namespace engram::bench {
namespace {

// All lengths are in the picture's own units, about a pixel of a wide screen.
constexpr double kWidth = 480;
constexpr double kPlotHeight = 230;
constexpr double kTop = 28;  // the y axis's label stands above it
constexpr double kRight = 16;
constexpr double kLineHeight = 16;
constexpr double kColours = 8;
constexpr size_t kMarkersMax = 60;
const std::string kLegendMark =
    "<svg viewBox=\"0 0 26 12\" width=\"26\" height=\"12\" aria-hidden=\"true\">";

// A generous guess: no text is measured before a browser draws it.
double TextWidth(std::string_view text, double size = 13) {
  const auto characters =
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return 0.6 * size * static_cast<double>(characters);
}

// "12.5" of a length.
std::string Px(double length) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.1f", length);
  return text.data();
}

std::string Text(double x, double y, std::string_view anchor, std::string_view text,
                 std::string_view css_class = "") {
  std::string out = "<text x=\"" + Px(x) + "\" y=\"" + Px(y) + "\"";
  if (anchor != "start") out += " text-anchor=\"" + std::string(anchor) + "\"";
  if (!css_class.empty()) out += " class=\"" + std::string(css_class) + "\"";
  return out + ">" + EscapeHtml(text) + "</text>";
}

std::string Line(double x1, double y1, double x2, double y2, std::string_view css_class) {
  return "<line class=\"" + std::string(css_class) + "\" x1=\"" + Px(x1) + "\" y1=\"" + Px(y1) +
         "\" x2=\"" + Px(x2) + "\" y2=\"" + Px(y2) + "\"/>";
}

std::string StyleClasses(const SeriesStyle& style) {
  return "c" + std::to_string(style.colour % static_cast<size_t>(kColours)) + " r" +
         std::to_string(style.run % 4);
}

std::string LabelWithUnit(const std::string& label, const std::string& unit) {
  if (unit.empty()) return label;
  return label.empty() ? unit : label + " (" + unit + ")";
}

// Words in lines of at most `width`; what is too long for three of them is cut.
std::vector<std::string> Wrap(const std::string& text, double width) {
  const auto characters = static_cast<size_t>(std::max(2.0, width / TextWidth("0", 12)));
  std::vector<std::string> lines;
  size_t at = 0;
  while (at < text.size() && lines.size() < 3) {
    size_t end = text.size();
    if (end - at > characters) {
      const size_t space = text.rfind(' ', at + characters);
      end = space != std::string::npos && space > at ? space : std::min(text.find(' ', at), end);
    }
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  if (at < text.size()) lines.back() += " \u2026";
  for (std::string& line : lines) {
    if (TextWidth(line, 12) <= width) continue;
    // Not through the middle of a character of several bytes.
    size_t cut = std::min(line.size(), characters - 1);
    while (cut > 0 && (line[cut] & 0xC0) == 0x80) --cut;
    line = line.substr(0, cut) + "\u2026";
  }
  return lines;
}

class PlotDrawer {
 public:
  explicit PlotDrawer(const MergedPlot& merged)
      : plot_(merged.plot), styles_(merged.styles), percent_(plot_.kind == PlotKind::kCdf) {}

  std::string Draw() {
    std::string out =
        "<figure class=\"plot\"><figcaption>" + EscapeHtml(plot_.title) + "</figcaption>";
    if (!ChooseScales()) return out + "<p class=\"none\">No values to show.</p></figure>";
    out += Legend();
    std::string drawing = DrawYAxis() + DrawXAxis();
    if (plot_.kind == PlotKind::kBar) {
      drawing += DrawBars();
    } else {
      for (size_t i = 0; i < plot_.series.size(); ++i) drawing += DrawSeries(i);
    }
    drawing += DrawLimits();
    const std::string height = Px(height_);
    return out + "<svg viewBox=\"0 0 " + Px(kWidth) + " " + height +
           "\" role=\"img\" aria-label=\"" + EscapeHtml(Summary()) + "\">" + drawing +
           "</svg></figure>\n";
  }

 private:
  // What has a place in the plot.
  [[nodiscard]] bool Shown(const Point& point) const {
    return HasPlace(plot_.x.scale, point.x) && HasPlace(plot_.y.scale, point.y);
  }

  // False: nothing has a place.
  bool ChooseScales() {
    std::vector<double> xs;
    std::vector<double> ys;
    const auto include_y = [&](double y) {
      if (HasPlace(plot_.y.scale, y)) ys.push_back(y);
    };
    for (const Series& series : plot_.series) {
      for (size_t i = 0; i < series.points.size(); ++i) {
        if (!Shown(series.points[i])) continue;
        xs.push_back(series.points[i].x);
        include_y(series.points[i].y);
        if (series.low_high.empty()) continue;
        include_y(series.low_high[i].low);
        include_y(series.low_high[i].high);
      }
    }
    if (xs.empty()) return false;
    TakeLimits(*std::max_element(ys.begin(), ys.end()));
    for (const Limit& limit : limits_) {
      if (!IsBeyond(limit)) include_y(limit.y);
    }
    // A height says how much only where the axis begins at zero.
    const bool from_zero = plot_.y.from_zero || plot_.kind != PlotKind::kLine;
    if (plot_.y.scale == Scale::kLinear && from_zero) ys.push_back(0);
    // Room for the numbers above bars.
    if (plot_.kind == PlotKind::kBar) ys.push_back(1.08 * *std::max_element(ys.begin(), ys.end()));
    if (percent_) ys.push_back(1);
    const auto [y_low, y_high] = std::minmax_element(ys.begin(), ys.end());
    y_axis_ = AxisScale::Over(plot_.y.scale, *y_low, *y_high, 6, true);
    y_prefix_ = percent_ ? Prefix{"", 0.01} : PrefixOf(plot_.y, *y_axis_);
    left_ = 0;
    for (const std::string& label : y_axis_->Labels(y_prefix_.factor)) {
      left_ = std::max(left_, TextWidth(label) + 12);
    }
    if (plot_.kind == PlotKind::kBar) {
      if (!plot_.x.categories.empty()) {
        for (size_t i = 0; i < plot_.x.categories.size(); ++i) {
          places_.insert(static_cast<double>(i));
        }
      } else {
        places_.insert(xs.begin(), xs.end());
      }
      return true;
    }
    const auto [x_low, x_high] = std::minmax_element(xs.begin(), xs.end());
    ChooseXAxis(*x_low, *x_high);
    return true;
  }

  void TakeLimits(double most) {
    for (const Limit& limit : plot_.limits) {
      if (HasPlace(plot_.y.scale, limit.y)) limits_.push_back(limit);
    }
    std::stable_sort(limits_.begin(), limits_.end(),
                     [](const Limit& a, const Limit& b) { return a.y > b.y; });
    if (plot_.y.scale == Scale::kLinear && most > 0) limit_shown_max_ = 3 * most;
  }

  // So far above everything else that it would flatten it.
  [[nodiscard]] bool IsBeyond(const Limit& limit) const { return limit.y > limit_shown_max_; }

  // As many ticks as have room for their labels.
  void ChooseXAxis(double low, double high) {
    for (int wanted = 8; wanted >= 2; --wanted) {
      x_axis_ = AxisScale::Over(plot_.x.scale, low, high, wanted, false);
      // A single value has an axis around it, whose end may be another.
      x_prefix_ = PrefixOf(plot_.x, *x_axis_);
      const std::vector<std::string> labels = x_axis_->Labels(x_prefix_.factor);
      bool fits = true;
      for (size_t i = 1; i < labels.size(); ++i) {
        const double apart = X(x_axis_->ticks()[i]) - X(x_axis_->ticks()[i - 1]);
        fits = fits && apart > (TextWidth(labels[i]) + TextWidth(labels[i - 1])) / 2 + 8;
      }
      if (fits) return;
    }
  }

  static Prefix PrefixOf(const Axis& axis, const AxisScale& scale) {
    const double most = std::max(std::abs(scale.low()), std::abs(scale.high()));
    return PrefixFor(axis.unit, axis.scale == Scale::kLinear ? most : scale.low(), most);
  }

  [[nodiscard]] double PlotWidth() const { return kWidth - left_ - kRight; }
  [[nodiscard]] double X(double x) const { return left_ + PlotWidth() * x_axis_->Place(x); }
  [[nodiscard]] double Y(double y) const {
    return kTop + kPlotHeight * (1 - std::clamp(y_axis_->Place(y), 0.0, 1.0));
  }
  // Of a bar over `x`: the middle of its group.
  [[nodiscard]] double GroupX(double x) const {
    const auto at = static_cast<double>(std::distance(places_.begin(), places_.find(x)));
    return left_ + GroupWidth() * (at + 0.5);
  }
  [[nodiscard]] double GroupWidth() const {
    return PlotWidth() / static_cast<double>(places_.size());
  }

  std::string DrawYAxis() {
    std::string out;
    const std::vector<std::string> labels = y_axis_->Labels(y_prefix_.factor);
    for (size_t i = 0; i < labels.size(); ++i) {
      const double y = Y(y_axis_->ticks()[i]);
      out += Line(left_, y, kWidth - kRight, y, "grid");
      out += Text(left_ - 7, y + 4.5, "end", labels[i], "tick");
    }
    const std::string unit = percent_ ? "%" : UnitText(y_prefix_, plot_.y.unit);
    return out + Text(0, 13, "start", LabelWithUnit(plot_.y.label, unit), "label");
  }

  std::string DrawXAxis() {
    const double bottom = kTop + kPlotHeight;
    std::string out = Line(left_, bottom, kWidth - kRight, bottom, "axis");
    double lines = 1;
    if (plot_.kind == PlotKind::kBar) {
      out += DrawGroupLabels(&lines);
    } else {
      const std::vector<std::string> labels = x_axis_->Labels(x_prefix_.factor);
      for (size_t i = 0; i < labels.size(); ++i) {
        const double x = X(x_axis_->ticks()[i]);
        out += Line(x, bottom, x, bottom + 5, "axis");
        // The outermost stay in the picture.
        const double half = TextWidth(labels[i]) / 2;
        out += Text(std::clamp(x, half, kWidth - half), bottom + 19, "middle", labels[i], "tick");
      }
    }
    const std::string label = LabelWithUnit(plot_.x.label, UnitText(x_prefix_, plot_.x.unit));
    height_ = bottom + 8 + kLineHeight * lines;
    if (label.empty()) return out;
    height_ += 22;
    return out + Text(left_ + PlotWidth() / 2, height_ - 5, "middle", label, "label");
  }

  std::string DrawGroupLabels(double* lines) {
    std::string out;
    const double most = std::max(std::abs(*places_.begin()), std::abs(*places_.rbegin()));
    if (plot_.x.categories.empty()) x_prefix_ = PrefixFor(plot_.x.unit, most, most);
    double widest = 0;
    const auto label_of = [&](double x) {
      return plot_.x.categories.empty() ? CompactText(x / x_prefix_.factor)
                                        : plot_.x.categories[static_cast<size_t>(x)];
    };
    if (plot_.x.categories.empty()) {
      for (const double x : places_) widest = std::max(widest, TextWidth(label_of(x)) + 6);
    }
    // Numbers that have no room stand under every second bar, every third, ...
    const auto every = static_cast<size_t>(std::max(1.0, std::ceil(widest / GroupWidth())));
    size_t at = 0;
    for (const double x : places_) {
      if (at++ % every != 0) continue;
      const std::vector<std::string> wrapped = plot_.x.categories.empty()
                                                   ? std::vector<std::string>{label_of(x)}
                                                   : Wrap(label_of(x), GroupWidth() - 6);
      for (size_t i = 0; i < wrapped.size(); ++i) {
        out += Text(GroupX(x), kTop + kPlotHeight + 19 + kLineHeight * static_cast<double>(i),
                    "middle", wrapped[i], plot_.x.categories.empty() ? "tick" : "category");
      }
      *lines = std::max(*lines, static_cast<double>(wrapped.size()));
    }
    return out;
  }

  // "read, 4,096 tokens: 5.18 M rows/s (5.02 M rows/s to 5.31 M rows/s)"
  [[nodiscard]] std::string Hover(const Series& series, size_t i) const {
    const Point& point = series.points[i];
    std::string x = QuantityText(point.x, plot_.x.unit);
    if (!plot_.x.categories.empty()) x = plot_.x.categories[static_cast<size_t>(point.x)];
    std::string text = series.name + ", " + x + ": " + QuantityText(point.y, plot_.y.unit);
    if (percent_) {
      text = series.name + ": " + NumberText(100 * point.y, DecimalsFor(100 * (1 - point.y), 1)) +
             " % at most " + x;
    }
    if (!series.low_high.empty()) {
      text += " (" + QuantityText(series.low_high[i].low, plot_.y.unit) + " to " +
              QuantityText(series.low_high[i].high, plot_.y.unit) + ")";
    }
    return "<title>" + EscapeHtml(text) + "</title>";
  }

  [[nodiscard]] std::string Whisker(const Series& series, size_t i, double x) const {
    if (series.low_high.empty()) return "";
    const Range& range = series.low_high[i];
    if (!HasPlace(plot_.y.scale, range.low) || !HasPlace(plot_.y.scale, range.high)) return "";
    const double low = Y(range.low);
    const double high = Y(range.high);
    std::string d = "M" + Px(x) + " " + Px(low) + "V" + Px(high);
    if (series.points.size() <= kMarkersMax) {
      for (const double y : {low, high}) d += "M" + Px(x - 4) + " " + Px(y) + "h8";
    }
    return "<path class=\"whisker\" d=\"" + d + "\"/>";
  }

  // Whether a point gets a mark that can be pointed at. Of a CDF the percentiles that people quote.
  [[nodiscard]] bool Marked(const Series& series, size_t i) const {
    if (!percent_) return series.points.size() <= kMarkersMax;
    for (const double fraction : {0.5, 0.9, 0.99, 0.999}) {
      if (series.points[i].y >= fraction && (i == 0 || series.points[i - 1].y < fraction)) {
        return true;
      }
    }
    return false;
  }

  std::string DrawSeries(size_t index) {
    const Series& series = plot_.series[index];
    std::string path;
    std::string marks;
    bool pen_down = false;
    for (size_t i = 0; i < series.points.size(); ++i) {
      const Point& point = series.points[i];
      if (!Shown(point)) {
        pen_down = false;
        continue;
      }
      const double x = X(point.x);
      const double y = Y(point.y);
      if (percent_) {
        path += pen_down ? "H" + Px(x) + "V" + Px(y)
                         : "M" + Px(x) + " " + Px(kTop + kPlotHeight) + "V" + Px(y);
      } else {
        path += (pen_down ? "L" : "M") + Px(x) + " " + Px(y);
        marks += Whisker(series, i, x);
      }
      pen_down = true;
      if (!Marked(series, i)) continue;
      marks += "<circle class=\"mark\" cx=\"" + Px(x) + "\" cy=\"" + Px(y) + "\" r=\"3.5\">" +
               Hover(series, i) + "</circle>";
    }
    return "<g class=\"" + StyleClasses(styles_[index]) + "\"><path class=\"line\" d=\"" + path +
           "\"><title>" + EscapeHtml(series.name) + "</title></path>" + marks + "</g>";
  }

  std::string DrawBars() {
    std::string out;
    const auto count = static_cast<double>(plot_.series.size());
    const double width = std::min(56.0, 0.8 * GroupWidth() / count);
    const bool texts_fit = BarTextsFit(width);
    const double zero = Y(plot_.y.scale == Scale::kLinear ? 0 : y_axis_->low());
    for (size_t index = 0; index < plot_.series.size(); ++index) {
      const Series& series = plot_.series[index];
      out += "<g class=\"" + StyleClasses(styles_[index]) + "\">";
      for (size_t i = 0; i < series.points.size(); ++i) {
        if (!Shown(series.points[i])) continue;
        const double x =
            GroupX(series.points[i].x) + width * (static_cast<double>(index) - count / 2);
        const double y = Y(series.points[i].y);
        out += "<rect class=\"bar\" x=\"" + Px(x + 1) + "\" y=\"" + Px(std::min(y, zero)) +
               "\" width=\"" + Px(std::max(1.0, width - 2)) + "\" height=\"" +
               Px(std::max(0.5, std::abs(zero - y))) + "\">" + Hover(series, i) + "</rect>";
        const double middle = x + width / 2;
        out += Whisker(series, i, middle);
        if (texts_fit) out += BarValue(series, i, middle);
      }
      out += "</g>";
    }
    return out;
  }

  // What stands above a bar.
  [[nodiscard]] std::string BarText(const Point& point) const {
    return CompactText(point.y / y_prefix_.factor);
  }

  // Whether all bars have room for that: values over some of them would look like a choice.
  [[nodiscard]] bool BarTextsFit(double width) const {
    for (const Series& series : plot_.series) {
      for (const Point& point : series.points) {
        if (!Shown(point)) continue;
        if (point.y < 0 || TextWidth(BarText(point), 11) > width + 2) return false;
      }
    }
    return true;
  }

  // Above the bar and its whisker.
  [[nodiscard]] std::string BarValue(const Series& series, size_t i, double x) const {
    double top = Y(series.points[i].y);
    if (!series.low_high.empty() && HasPlace(plot_.y.scale, series.low_high[i].high)) {
      top = std::min(top, Y(series.low_high[i].high));
    }
    return Text(x, top - 5, "middle", BarText(series.points[i]), "value");
  }

  // Limits from the highest to the lowest, as lines or as entries of the legend.
  [[nodiscard]] std::string DrawLimits() const {
    std::string out;
    for (size_t i = 0; i < limits_.size(); ++i) {
      if (IsBeyond(limits_[i])) continue;
      const double y = Y(limits_[i].y);
      out += Line(left_, y, kWidth - kRight, y, "limit l" + std::to_string(i % 4));
    }
    return out;
  }

  [[nodiscard]] std::string LegendOfLimits() const {
    std::string out;
    for (size_t i = 0; i < limits_.size(); ++i) {
      const bool beyond = IsBeyond(limits_[i]);
      out += "<li>";
      if (!beyond)
        out += kLegendMark + Line(0, 6, 26, 6, "limit l" + std::to_string(i % 4)) + "</svg>";
      out += EscapeHtml(limits_[i].label + ": " + QuantityText(limits_[i].y, plot_.y.unit) +
                        (beyond ? ", beyond the picture" : "")) +
             "</li>";
    }
    return out;
  }

  [[nodiscard]] std::string Legend() const {
    std::string out;
    for (size_t i = 0; i < plot_.series.size() && plot_.series.size() > 1; ++i) {
      const bool bar = plot_.kind == PlotKind::kBar;
      out += "<li class=\"" + StyleClasses(styles_[i]) + "\">" + kLegendMark;
      out += bar ? "<rect class=\"bar\" x=\"7\" y=\"0\" width=\"12\" height=\"12\"/>"
                 : "<path class=\"line\" d=\"M0 6H26\"/>";
      if (!bar && !percent_) out += "<circle class=\"mark\" cx=\"13\" cy=\"6\" r=\"3.5\"/>";
      out += "</svg>" + EscapeHtml(plot_.series[i].name) + "</li>";
    }
    out += LegendOfLimits();
    return out.empty() ? "" : "<ul class=\"legend\">" + out + "</ul>";
  }

  // What a reader who cannot see it is told.
  [[nodiscard]] std::string Summary() const {
    constexpr std::array<std::string_view, 3> kKinds = {"Line plot", "Bar plot",
                                                        "Cumulative distribution"};
    std::string text = plot_.title + ". " +
                       std::string(kKinds.at(static_cast<size_t>(plot_.kind))) + " of " +
                       plot_.y.label + " over " + plot_.x.label + ".";
    for (const Series& series : plot_.series) {
      const auto [least, most] =
          std::minmax_element(series.points.begin(), series.points.end(),
                              [](const Point& a, const Point& b) { return a.y < b.y; });
      if (series.points.empty()) continue;
      if (percent_) {
        text += " " + series.name + ": up to " + QuantityText(most->x, plot_.x.unit) + ".";
      } else {
        text += " " + series.name + ": " + QuantityText(least->y, plot_.y.unit) + " to " +
                QuantityText(most->y, plot_.y.unit) + ".";
      }
    }
    return text;
  }

  const Plot& plot_;
  const std::vector<SeriesStyle>& styles_;
  const bool percent_;
  std::optional<AxisScale> x_axis_;
  std::optional<AxisScale> y_axis_;
  std::vector<Limit> limits_;
  double limit_shown_max_ = INFINITY;
  std::set<double> places_;  // of bars: where on the x axis
  Prefix x_prefix_;
  Prefix y_prefix_;
  double left_ = 0;
  double height_ = 0;
};

}  // namespace

const std::string_view kPlotStyle = R"css(
:root{--c0:#2563eb;--c1:#d97706;--c2:#0d9668;--c3:#c026d3;--c4:#dc2626;--c5:#0891b2;--c6:#65a30d;
--c7:#64748b;--grid:#e5e7eb;--axis:#6b7280;--limit:#374151}
@media (prefers-color-scheme:dark){:root{--c0:#60a5fa;--c1:#fbbf24;--c2:#34d399;--c3:#e879f9;
--c4:#f87171;--c5:#22d3ee;--c6:#a3e635;--c7:#94a3b8;--grid:#2b313b;--axis:#8b949e;--limit:#c9d1d9}}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}
.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.plot{margin:0}
.plot>svg{display:block;width:100%;height:auto;font-size:13px;font-variant-numeric:tabular-nums}
.plot text{fill:var(--text)}
.plot .tick,.plot .category{fill:var(--faint)}.plot .category{font-size:12px}
.plot .value{font-size:11px}
.plot .grid{stroke:var(--grid)}.plot .axis{stroke:var(--axis)}
.plot .line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
.plot .mark{fill:var(--c);stroke:var(--c);stroke-width:1.5}
.plot .whisker{fill:none;stroke:var(--c);stroke-width:1.2}
.plot .bar{fill:var(--c);stroke:var(--c)}
.plot .bar~.whisker{stroke:var(--text)}
.r1 .line{stroke-dasharray:7 3}.r2 .line{stroke-dasharray:2 3}.r3 .line{stroke-dasharray:9 3 2 3}
.r1 .mark,.r2 .mark,.r3 .mark{fill:var(--card)}
.r1 .bar{fill-opacity:.45}.r2 .bar{fill-opacity:.2}.r3 .bar{fill-opacity:0}
.plot .limit{stroke:var(--limit);stroke-width:1.3;stroke-dasharray:5 4}
.plot .l1{stroke-dasharray:2 3}.plot .l2{stroke-dasharray:9 3 2 3}.plot .l3{stroke-dasharray:8 2 2 2 2 2}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:0 0 .5rem;padding:0;
font-size:.8125rem}
.legend li{display:flex;align-items:center;gap:.4rem}.legend svg{flex:none}
.none{color:var(--faint)}
)css";

std::string DrawPlot(const MergedPlot& plot) { return PlotDrawer(plot).Draw(); }

}  // namespace engram::bench
