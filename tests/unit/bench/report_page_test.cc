#include "bench/report_page.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/report.h"
#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class ReportPageTest : public testing::Test {
 protected:
  std::filesystem::path WriteText(const std::string& name, const std::string& text) {
    std::ofstream(dir_ / name) << text;
    return dir_ / name;
  }

  test::ScratchDir scratch_;
  const std::filesystem::path dir_ = scratch_.path();
};

ReportFile MadeUp(const std::string& file) {
  ReportFile report;
  report.file = file;
  report.benchmark = "read";
  report.title = "How fast are rows read?";
  report.command = {"/somewhere/engram-bench", "read", "--way", "one sided"};
  report.environment.hostname = "m0";
  report.environment.cpu_model = "EPYC";
  report.environment.cpus = 2;
  report.environment.load_average_1m = 0.2;
  report.environment.git_commit = "0123456789abcdef";
  report.environment.build_type = "RelWithDebInfo";
  report.plots.push_back({.title = "Rows per second",
                          .kind = PlotKind::kLine,
                          .x = {"batch", "rows", Scale::kLog2, {}},
                          .y = {"rate", "rows/s", Scale::kLinear, {}},
                          .series = {{"gather", {{48, 6e5}, {1536, 4e6}}, {}}},
                          .limits = {{"wanted", 3e6}}});
  report.tables.push_back({"Reading", {{"way"}, {"rate", "rows/s"}}, {{"gather", 4e6}}});
  return report;
}

size_t CountOf(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST_F(ReportPageTest, SaysWhatWasMeasuredWhereAndDrawsIt) {
  const std::string page = MakePage({MadeUp("a.json")});
  EXPECT_THAT(page, HasSubstr("<h2>How fast are rows read?</h2>"));
  EXPECT_THAT(page, HasSubstr("<code>engram-bench read --way &#39;one sided&#39;</code>"));
  EXPECT_THAT(page, HasSubstr("m0, EPYC, 2 processors"));
  EXPECT_THAT(page, HasSubstr("<dd>0123456789ab</dd>"));
  EXPECT_THAT(page, HasSubstr("role=\"img\" aria-label=\"Rows per second. Line plot of rate"));
  EXPECT_THAT(page, HasSubstr(">rate (M rows/s)</text>"));
  EXPECT_THAT(page, HasSubstr(">batch (rows)</text>"));
  EXPECT_THAT(page, HasSubstr("<title>gather, 1,536 rows: 4.00 M rows/s</title>"));
  EXPECT_THAT(page, HasSubstr("wanted: 3.00 M rows/s"));
  EXPECT_THAT(page, HasSubstr(">rate <span>M rows/s</span></th>"));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme:dark"));
  EXPECT_THAT(page, Not(HasSubstr("class=\"warnings\"")));
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("http://")));
  EXPECT_THAT(page, Not(HasSubstr("https://")));
}

TEST_F(ReportPageTest, TextsOfAReportAreNeverMarkup) {
  const std::string evil = "<script>alert(\"x\")</script>&'\x01";
  ReportFile report = MadeUp("<b>a.json");
  report.title = report.plots[0].title = report.plots[0].series[0].name = evil;
  report.plots[0].limits[0].label = report.plots[0].x.label = report.plots[0].y.unit = evil;
  report.plots[0].x.unit = report.tables[0].title = report.tables[0].columns[0].label = evil;
  report.tables[0].columns[1].unit = report.environment.hostname = evil;
  report.environment.git_commit = report.environment.sanitizer = evil;
  report.environment.build_type = report.environment.time_utc = evil;
  report.tables[0].rows[0][0] = Cell(evil);
  report.command = {evil, evil};
  Plot bars = report.plots[0];
  bars.kind = PlotKind::kBar;
  bars.x.categories = {evil};
  bars.series[0].points = {{0, 1}};
  report.plots.push_back(bars);
  const std::string page = MakePage({report, MadeUp("b.json")});
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("<b>")));
  EXPECT_THAT(page, Not(HasSubstr("alert(\"x")));
  EXPECT_THAT(page, Not(HasSubstr("\x01")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;"));
}

TEST_F(ReportPageTest, RunsOfOneQuestionShareTheirPlots) {
  const std::string page = MakePage({MadeUp("old.json"), MadeUp("new.json")});
  EXPECT_EQ(CountOf(page, "<h2>"), 1u);
  EXPECT_EQ(CountOf(page, "<figure class=\"plot\""), 1u);
  EXPECT_EQ(CountOf(page, "<table"), 2u);
  EXPECT_THAT(page, HasSubstr("</svg>old</li>"));
  EXPECT_THAT(page, HasSubstr("</svg>new</li>"));

  ReportFile other = MadeUp("load.json");
  other.benchmark = "load";
  const std::string apart = MakePage({MadeUp("read.json"), other});
  EXPECT_EQ(CountOf(apart, "<h2>"), 2u);
  EXPECT_EQ(CountOf(apart, "<figure class=\"plot\""), 2u);
}

TEST_F(ReportPageTest, FilesOfOneNameAreToldApartByTheirFolder) {
  const std::string page = MakePage({MadeUp("monday/read.json"), MadeUp("friday/read.json")});
  EXPECT_THAT(page, HasSubstr("</svg>monday/read</li>"));
  EXPECT_THAT(page, HasSubstr("</svg>friday/read</li>"));
}

TEST_F(ReportPageTest, WarnsWhereTcpIsPaced) {
  ReportFile paced = MadeUp("a.json");
  paced.environment.tcp_congestion_control = "cubic";
  EXPECT_THAT(WarningsOf({paced}), IsEmpty());
  paced.environment.tcp_congestion_control = "bbr";
  EXPECT_THAT(WarningsOf({paced}), ElementsAre(HasSubstr("congestion control bbr")));
}

TEST_F(ReportPageTest, WarnsOfWhatMakesFiguresDoubtful) {
  EXPECT_THAT(WarningsOf({MadeUp("a.json")}), IsEmpty());
  ReportFile busy = MadeUp("busy.json");
  busy.environment.load_average_1m = 1.5;
  EXPECT_THAT(WarningsOf({busy}), ElementsAre("The machine was busy before the measurement: busy "
                                              "(load 1.50 on 2 processors)."));
  ReportFile other = MadeUp("other.json");
  other.environment.build_type = "Debug";
  other.environment.sanitizer = "thread";
  other.environment.git_commit = "fedcba9876543210-dirty";
  other.environment.hostname = "m1";
  EXPECT_THAT(WarningsOf({MadeUp("a.json"), other}),
              ElementsAre("The build was not optimised: other (Debug).",
                          "The build had sanitizers, which slow everything down: other (thread).",
                          "The sources had changes that are in no commit: other "
                          "(fedcba987654-dirty).",
                          "Commits differ: 0123456789ab and fedcba987654-dirty.",
                          "Machines differ: m0 (EPYC, 2 processors) and m1 (EPYC, 2 processors)."));
  EXPECT_THAT(MakePage({busy}), HasSubstr("role=\"note\" aria-label=\"Warnings\""));
}

TEST_F(ReportPageTest, EveryKindOfPlotOutlivesValuesThatCannotBeShown) {
  ReportFile report = MadeUp("a.json");
  report.plots.clear();
  const double nan = std::nan("");
  for (const PlotKind kind : {PlotKind::kLine, PlotKind::kBar, PlotKind::kCdf}) {
    for (const Scale scale : {Scale::kLinear, Scale::kLog2, Scale::kLog10}) {
      Plot plot{.title = "all",
                .kind = kind,
                .x = {"x", "s", scale, {}},
                .y = {"y", "B/s", scale, {}},
                .series = {},
                .limits = {{"none", nan}, {"zero", 0}, {"far", 1e30}}};
      report.plots.push_back(plot);
      plot.series = {{"none", {}, {}}, {"one", {{1, 1}}, {{nan, 0}}}};
      report.plots.push_back(plot);
      if (kind != PlotKind::kCdf) {
        plot.series[1].points = {{nan, nan}, {0, 0}, {-1, -1}, {1, nan}, {2, 1e30}, {3, 1e-30}};
        plot.series[1].low_high = {{nan, nan}, {0, 0}, {-1, 1}, {1, 0}, {0, 1}, {-1e30, 1e30}};
      }
      report.plots.push_back(plot);
    }
  }
  const std::string page = MakePage({report});
  EXPECT_EQ(CountOf(page, "<figure class=\"plot\""), report.plots.size());
  EXPECT_EQ(CountOf(page, "No values to show."), 9u);
  EXPECT_THAT(page, Not(HasSubstr("=\"nan")));
  EXPECT_THAT(page, Not(HasSubstr("inf\"")));
}

TEST_F(ReportPageTest, AReportIsReadAsItWasWritten) {
  Report report("read", 7, "How fast are rows read?");
  report.AddPlot(MadeUp("").plots[0]);
  report.AddTable(MadeUp("").tables[0]);
  const std::filesystem::path file = dir_ / "read.json";
  ASSERT_TRUE(report.Write(file).ok());
  const auto read = ReadReportFile(file);
  ASSERT_TRUE(read.has_value()) << read.error().ToString();
  EXPECT_EQ(read->title, "How fast are rows read?");
  EXPECT_THAT(read->command.at(0), HasSubstr("engram_bench_test"));
  EXPECT_GT(read->environment.cpus, 0);
  EXPECT_EQ(ToJson(read->plots.at(0)), ToJson(MadeUp("").plots[0]));
  EXPECT_EQ(ToJson(read->tables.at(0)), ToJson(MadeUp("").tables[0]));
}

TEST_F(ReportPageTest, DamagedAndForeignFilesAreRefusedByName) {
  const auto expect = [&](const std::filesystem::path& file, StatusCode code,
                          const std::string& what) {
    const auto read = ReadReportFile(file);
    ASSERT_FALSE(read.has_value()) << file;
    EXPECT_EQ(read.error().code(), code);
    EXPECT_THAT(read.error().message(), HasSubstr(file.string()));
    EXPECT_THAT(read.error().message(), HasSubstr(what));
  };
  const std::string start = R"({"benchmark": "read", "environment": {})";
  expect(dir_ / "none.json", StatusCode::kNotFound, "no such file");
  expect(dir_, StatusCode::kIo, "not a regular file");
  expect(WriteText("empty.json", ""), StatusCode::kMalformed, "is not JSON");
  expect(WriteText("half.json", start), StatusCode::kMalformed, "only a part of it");
  expect(WriteText("deep.json", std::string(100'000, '[')), StatusCode::kMalformed, "is not JSON");
  expect(WriteText("bytes.json", "\"\xff\xfe\""), StatusCode::kMalformed, "is not JSON");
  expect(WriteText("huge.json", start + R"(, "seed": 1e999})"), StatusCode::kMalformed,
         "is not JSON");
  expect(WriteText("other.json", R"({"a": 1})"), StatusCode::kMalformed,
         "no report of engram-bench");
  expect(WriteText("list.json", "[1]"), StatusCode::kMalformed, "no report of engram-bench");
  expect(WriteText("load.json", R"({"benchmark": "read", "environment": {"cpus": "two"}})"),
         StatusCode::kMalformed, "environment: cpus");
  expect(WriteText("plots.json", start + R"(, "plots": 1})"), StatusCode::kMalformed,
         "plots is not an array");
  expect(WriteText("plot.json", start + R"(, "plots": [{"title": "Rows", "x": {}}]})"),
         StatusCode::kMalformed, "plots[0]: \"Rows\": label is missing");
  expect(WriteText("cells.json", start + R"(, "tables": [{"title": "Rows", "columns":
      [{"label": "a"}], "rows": [[1], [1, 2]]}]})"),
         StatusCode::kMalformed, "tables[0]: \"Rows\": rows[1]");
}

TEST_F(ReportPageTest, AnOldReportWithoutFiguresSaysSo) {
  const auto read =
      ReadReportFile(WriteText("old.json", R"({"benchmark": "read", "environment": {}})"));
  ASSERT_TRUE(read.has_value()) << read.error().ToString();
  const std::string page = MakePage({*read});
  EXPECT_THAT(page, HasSubstr("<h2>read</h2>"));
  EXPECT_THAT(page, HasSubstr("neither tables nor plots"));
}

}  // namespace
}  // namespace engram::bench
