// Reports as a page to look at.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "bench/command.h"
#include "bench/report.h"
#include "bench/report_file.h"
#include "bench/report_page.h"

namespace engram::bench {
namespace {

struct PageOptions {
  std::vector<std::string> files;
  std::string out;
};

Status RunReport(const PageOptions& options) {
  std::vector<ReportFile> reports;
  for (const std::string& file : options.files) {
    std::error_code error;
    if (std::filesystem::equivalent(file, options.out, error)) {
      return {StatusCode::kInvalidArgument,
              "--out names the report " + file + ", which the page would replace"};
    }
    auto report = ReadReportFile(file);
    if (!report.has_value()) return report.error();
    reports.push_back(*std::move(report));
  }
  for (const std::string& warning : WarningsOf(reports)) {
    std::fprintf(stderr, "engram-bench: warning: %s\n", warning.c_str());
  }
  ENGRAM_RETURN_IF_ERROR(WriteWholeFile(options.out, MakePage(reports)));
  std::printf("%s: %zu report%s; open it in a browser\n", options.out.c_str(), reports.size(),
              reports.size() == 1 ? "" : "s");
  return {};
}

}  // namespace

void AddReportCommand(CLI::App& app, Status& outcome) {
  auto options = std::make_shared<PageOptions>();
  CLI::App* command =
      app.add_subcommand("report", "Turns reports into one page with their plots and tables");
  command->footer(
      "The page is one file that needs neither a network nor scripts: attach it, or open it on a\n"
      "phone. It says where each report was measured and warns of what makes figures doubtful.\n"
      "Reports of one question share their plots, each under the name of its file:\n"
      "\n"
      "  engram-bench hash --json before.json\n"
      "  ... change something, build ...\n"
      "  engram-bench hash --json after.json\n"
      "  engram-bench report before.json after.json --out hash.html");
  command->add_option("files", options->files, "What `engram-bench ... --json FILE` wrote")
      ->required()
      ->expected(1, 64)
      ->type_name("FILE.json");
  command->add_option("--out", options->out, "The page to write; an old one is replaced")
      ->required()
      ->type_name("PAGE.html");
  command->callback([options, &outcome] { outcome = RunReport(*options); });
}

}  // namespace engram::bench
