#include "bench/report_page.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "bench/html_text.h"
#include "bench/number_text.h"
#include "bench/plot_merge.h"
#include "bench/plot_svg.h"
#include "bench/table_text.h"
#include "engram/base/tcp_congestion.h"

namespace engram::bench {
namespace {

constexpr double kBusyLoadPerCpu = 0.7;
constexpr size_t kHalfPageColumnsMax = 5;  // of a table; others take the page's whole width

constexpr std::string_view kPageStyle = R"css(
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--text:#1b1f24;--faint:#57606a;
--line:#d8dee4;--warn:#fff4d6;--warn-line:#d4a72c}
@media (prefers-color-scheme:dark){:root{--page:#0d1117;--card:#161b22;--text:#e6edf3;
--faint:#9aa4af;--line:#30363d;--warn:#2e2508;--warn-line:#9e7b16}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:1160px;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.5rem;margin:0 0 1rem}
h2{font-size:1.25rem;margin:2.25rem 0 .75rem}
h3,figcaption{font-size:1rem;font-weight:600;line-height:1.35;text-align:left}
figcaption{margin:0 0 .4rem}
.warnings{background:var(--warn);border:1px solid var(--warn-line);border-radius:8px;
padding:.6rem 1rem;margin:0 0 1rem}
.warnings p{margin:.15rem 0}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr));
align-items:start}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:1rem;
margin:0 0 1rem;min-width:0}
.grid>.card{margin:0}
.runs h3{margin:0 0 .1rem;overflow-wrap:anywhere}
.runs p{margin:0 0 .5rem;color:var(--faint)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem .9rem;margin:0;font-size:.875rem}
dt{color:var(--faint)}
dd{margin:0;overflow-wrap:anywhere}
code{font:.8125rem/1.45 ui-monospace,SFMono-Regular,Menlo,"Liberation Mono",monospace}
.wide{overflow-x:auto}
.tables{margin-top:1rem}
.tables>.full{grid-column:1/-1}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
figcaption span{color:var(--faint);font-weight:400}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left;
vertical-align:bottom}
th:first-child,td:first-child{padding-left:0}
th:last-child,td:last-child{padding-right:0}
thead th{font-weight:600}
thead span{display:block;color:var(--faint);font-weight:400}
tbody th{font-weight:400;min-width:8rem}
.number{text-align:right;white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}
@media (max-width:480px){main{padding:1rem .75rem 2rem}.card{padding:.75rem}}
footer{margin-top:2rem;color:var(--faint);font-size:.875rem}
)css";

// For a shell: 'a b' for what has more than plain characters.
std::string ShellWord(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+:,./@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string CommandText(const std::vector<std::string>& command) {
  std::string text;
  for (size_t i = 0; i < command.size(); ++i) {
    // The folder of the program says nothing.
    const std::string word =
        i == 0 ? std::filesystem::path(command[i]).filename().string() : command[i];
    text += (i == 0 ? "" : " ") + ShellWord(word);
  }
  return text;
}

// The stem of each file; with its folder where stems are not enough to tell them apart.
std::vector<std::string> RunNames(const std::vector<ReportFile>& reports) {
  std::vector<std::string> names;
  names.reserve(reports.size());
  for (const ReportFile& report : reports) names.push_back(report.file.stem().string());
  for (size_t i = 0; i < reports.size(); ++i) {
    const auto same = [&](const ReportFile& other) {
      return other.file.stem() == reports[i].file.stem();
    };
    if (std::count_if(reports.begin(), reports.end(), same) == 1) continue;
    names[i] = (reports[i].file.parent_path() / reports[i].file.stem()).string();
  }
  return names;
}

std::string OrUnknown(const std::string& text) { return text.empty() ? "unknown" : text; }

// A commit's name: its first digits, and what git adds to them.
std::string ShortCommit(const std::string& commit) {
  const size_t dash = std::min(commit.find('-'), commit.size());
  return OrUnknown(commit.substr(0, std::min<size_t>(dash, 12)) + commit.substr(dash));
}

bool IsBusy(const ReportEnvironment& environment) {
  return environment.load_average_1m > kBusyLoadPerCpu * environment.cpus;
}

bool IsOptimised(const ReportEnvironment& environment) {
  const std::string& type = environment.build_type;
  return type == "Release" || type == "RelWithDebInfo" || type == "MinSizeRel";
}

// "a and b"; of more "a, b and 3 others".
std::string Listed(const std::set<std::string>& texts) {
  std::string out;
  size_t at = 0;
  for (const std::string& text : texts) {
    if (at == 2 && texts.size() > 3) {
      return out + " and " + std::to_string(texts.size() - 2) + " others";
    }
    if (at > 0) out += at + 1 == texts.size() ? " and " : ", ";
    out += text;
    ++at;
  }
  return out;
}

// "what: a (why), b (why)." of the reports for which describe(environment) gives a reason.
template <typename Describe>
void WarnOfSome(const std::vector<ReportFile>& reports, const std::string& what,
                const Describe& describe, std::vector<std::string>* warnings) {
  const std::vector<std::string> names = RunNames(reports);
  std::string list;
  for (size_t i = 0; i < reports.size(); ++i) {
    const std::string why = describe(reports[i].environment);
    if (!why.empty()) list += (list.empty() ? "" : ", ") + names[i] + " (" + why + ")";
  }
  if (!list.empty()) warnings->push_back(what + ": " + list + ".");
}

template <typename Describe>
void WarnIfTheyDiffer(const std::vector<ReportFile>& reports, const std::string& what,
                      const Describe& describe, std::vector<std::string>* warnings) {
  std::set<std::string> texts;
  for (const ReportFile& report : reports) texts.insert(describe(report.environment));
  if (texts.size() > 1) warnings->push_back(what + " differ: " + Listed(texts) + ".");
}

std::string Definition(std::string_view term, const std::string& html) {
  return "<dt>" + std::string(term) + "</dt><dd>" + html + "</dd>";
}

std::string MakeRun(const ReportFile& report, const std::string& name) {
  const ReportEnvironment& environment = report.environment;
  std::string machine = OrUnknown(environment.hostname);
  if (!environment.cpu_model.empty()) machine += ", " + environment.cpu_model;
  if (environment.cpus > 0) machine += ", " + QuantityText(environment.cpus, "processors");
  if (environment.memory_bytes > 0) machine += ", " + QuantityText(environment.memory_bytes, "B");
  std::string build = OrUnknown(environment.build_type);
  if (!environment.compiler.empty()) build += ", " + environment.compiler;
  if (!environment.sanitizer.empty()) build += ", sanitizer " + environment.sanitizer;
  const std::string load = std::isnan(environment.load_average_1m)
                               ? "unknown"
                               : NumberText(environment.load_average_1m, 2);
  const std::string command = report.command.empty()
                                  ? "unknown"
                                  : "<code>" + EscapeHtml(CommandText(report.command)) + "</code>";
  return "<section class=\"card\"><h3>" + EscapeHtml(name) + "</h3><p>" + EscapeHtml(report.title) +
         "</p><dl>" + Definition("Command", command) + Definition("Machine", EscapeHtml(machine)) +
         Definition("UCX", EscapeHtml(OrUnknown(environment.ucx_version))) +
         Definition("Commit", EscapeHtml(ShortCommit(environment.git_commit))) +
         Definition("Build", EscapeHtml(build)) + Definition("Load before", load) +
         Definition("Time", EscapeHtml(OrUnknown(environment.time_utc))) + "</dl></section>\n";
}

// `run` is said beside the title unless empty.
std::string MakeTable(const Table& table, const std::string& run) {
  const std::vector<TableColumnText> columns = TextOfColumns(table);
  const bool full = columns.size() > kHalfPageColumnsMax;
  std::string html = std::string("<figure class=\"card") + (full ? " full" : "") +
                     "\"><figcaption>" + EscapeHtml(table.title);
  if (!run.empty()) html += " <span>\u2013 " + EscapeHtml(run) + "</span>";
  html += "</figcaption><div class=\"wide\" tabindex=\"0\"><table><thead><tr>";
  const auto class_of = [](const TableColumnText& column) {
    return std::string(column.of_numbers ? " class=\"number\"" : "");
  };
  for (const TableColumnText& column : columns) {
    html += "<th scope=\"col\"" + class_of(column) + ">" + EscapeHtml(column.label);
    if (!column.unit.empty()) html += " <span>" + EscapeHtml(column.unit) + "</span>";
    html += "</th>";
  }
  html += "</tr></thead><tbody>";
  for (size_t row = 0; row < table.rows.size(); ++row) {
    html += "<tr>";
    for (const TableColumnText& column : columns) {
      const bool names_row = &column == &columns.front() && !column.of_numbers;
      const std::string tag = names_row ? "th" : "td";
      html += "<" + tag + (names_row ? " scope=\"row\"" : class_of(column)) + ">";
      html += EscapeHtml(column.cells[row]);
      html += "</" + tag + ">";
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div></figure>\n";
}

struct Run {
  std::string name;
  const ReportFile* report = nullptr;
};

// Tables with the same title stand beside each other.
std::string MakeTables(const std::vector<Run>& runs) {
  std::vector<std::string> titles;
  for (const Run& run : runs) {
    for (const Table& table : run.report->tables) {
      if (std::find(titles.begin(), titles.end(), table.title) == titles.end()) {
        titles.push_back(table.title);
      }
    }
  }
  std::string html;
  for (const std::string& title : titles) {
    for (const Run& run : runs) {
      for (const Table& table : run.report->tables) {
        if (table.title == title) html += MakeTable(table, runs.size() > 1 ? run.name : "");
      }
    }
  }
  return html.empty() ? "" : "<div class=\"grid tables\">\n" + html + "</div>\n";
}

std::string MakeQuestion(const std::vector<Run>& runs) {
  std::string html = "<section><h2>" + EscapeHtml(runs.front().report->title) + "</h2>\n";
  std::vector<RunPlots> plots_of_runs;
  plots_of_runs.reserve(runs.size());
  for (const Run& run : runs) plots_of_runs.push_back({run.name, run.report->plots});
  std::string plots;
  for (const MergedPlot& plot : MergePlots(plots_of_runs)) {
    plots += "<div class=\"card\">" + DrawPlot(plot) + "</div>\n";
  }
  const std::string tables = MakeTables(runs);
  if (!plots.empty()) html += "<div class=\"grid\">\n" + plots + "</div>\n";
  if (plots.empty() && tables.empty()) {
    html +=
        "<p>These reports have neither tables nor plots: an engram-bench of before there were "
        "any wrote them. Measure again to see some.</p>\n";
  }
  return html + tables + "</section>\n";
}

}  // namespace

std::vector<std::string> WarningsOf(const std::vector<ReportFile>& reports) {
  std::vector<std::string> warnings;
  WarnOfSome(
      reports, "The machine was busy before the measurement",
      [](const ReportEnvironment& environment) {
        if (!IsBusy(environment)) return std::string();
        return "load " + NumberText(environment.load_average_1m, 2) + " on " +
               QuantityText(environment.cpus, "processors");
      },
      &warnings);
  WarnOfSome(
      reports, "The build was not optimised",
      [](const ReportEnvironment& environment) {
        return IsOptimised(environment) ? std::string() : OrUnknown(environment.build_type);
      },
      &warnings);
  WarnOfSome(
      reports, "The build had sanitizers, which slow everything down",
      [](const ReportEnvironment& environment) { return environment.sanitizer; }, &warnings);
  WarnOfSome(
      reports, "The sources had changes that are in no commit",
      [](const ReportEnvironment& environment) {
        const std::string& commit = environment.git_commit;
        return commit.ends_with("-dirty") ? ShortCommit(commit) : std::string();
      },
      &warnings);
  WarnOfSome(
      reports, "TCP was paced: rows of some batches came 50 ms late",
      [](const ReportEnvironment& environment) {
        const std::string& name = environment.tcp_congestion_control;
        return TcpPacingWarning(name).empty() ? std::string() : "congestion control " + name;
      },
      &warnings);
  WarnIfTheyDiffer(
      reports, "Commits",
      [](const ReportEnvironment& environment) { return ShortCommit(environment.git_commit); },
      &warnings);
  WarnIfTheyDiffer(
      reports, "Machines",
      [](const ReportEnvironment& environment) {
        return OrUnknown(environment.hostname) + " (" + OrUnknown(environment.cpu_model) + ", " +
               QuantityText(environment.cpus, "processors") + ")";
      },
      &warnings);
  WarnIfTheyDiffer(
      reports, "UCX versions",
      [](const ReportEnvironment& environment) { return OrUnknown(environment.ucx_version); },
      &warnings);
  return warnings;
}

std::string MakePage(const std::vector<ReportFile>& reports) {
  const std::vector<std::string> names = RunNames(reports);
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      // Whatever a report says, the page loads nothing and runs nothing.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n"
      "<title>Engram benchmark report</title>\n<style>" +
      std::string(kPageStyle) + std::string(kPlotStyle) +
      "</style></head>\n<body><main>\n<h1>Engram benchmark report</h1>\n";
  const std::vector<std::string> warnings = WarningsOf(reports);
  if (!warnings.empty()) {
    html += "<div class=\"warnings\" role=\"note\" aria-label=\"Warnings\">\n";
    for (const std::string& warning : warnings) {
      html += "<p>\u26a0 " + EscapeHtml(warning) + "</p>\n";
    }
    html += "</div>\n";
  }
  html += "<div class=\"grid runs\">\n";
  for (size_t i = 0; i < reports.size(); ++i) html += MakeRun(reports[i], names[i]);
  html += "</div>\n";

  std::vector<std::vector<Run>> questions;
  for (size_t i = 0; i < reports.size(); ++i) {
    const auto same = [&](const std::vector<Run>& question) {
      return question.front().report->benchmark == reports[i].benchmark;
    };
    auto found = std::find_if(questions.begin(), questions.end(), same);
    if (found == questions.end()) found = questions.insert(found, std::vector<Run>());
    found->push_back({names[i], &reports[i]});
  }
  for (const std::vector<Run>& question : questions) html += MakeQuestion(question);
  return html +
         "<footer>Bars and points are medians, thin lines go from the least to the most of the "
         "repetitions, dashed lines are bounds and goals.</footer>\n</main></body></html>\n";
}

}  // namespace engram::bench
