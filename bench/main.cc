// engram-bench: how fast is it here, and how near to what the machine allows?
#include <cstdio>
#include <exception>

#include "bench/command.h"

int main(int argc, char** argv) {
  CLI::App app(
      "engram-bench measures Engram's data path on this machine or cluster: a subcommand for each\n"
      "question. Each prints a table and, with --json FILE, writes a report that also records the\n"
      "machine, UCX, the seed and the source commit. \"report\" turns any of these files into one\n"
      "page with plots. Run it on a quiet machine: it says how busy the machine was.");
  app.require_subcommand(1);
  engram::Status outcome;
  engram::bench::AddHashCommand(app, outcome);
  engram::bench::AddHostsCommand(app, outcome);
  engram::bench::AddLoadCommand(app, outcome);
  engram::bench::AddOffloadCommand(app, outcome);
  engram::bench::AddPeersCommand(app, outcome);
  engram::bench::AddPlacementCommand(app, outcome);
  engram::bench::AddPrefetchCommand(app, outcome);
  engram::bench::AddPressureCommand(app, outcome);
  engram::bench::AddReadCommand(app, outcome);
  engram::bench::AddReportCommand(app, outcome);
  engram::bench::AddScaleCommand(app, outcome);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engram-bench: INTERNAL: %s\n", error.what());
    return 1;
  }
  if (outcome.ok()) return 0;
  std::fprintf(stderr, "engram-bench: %s\n", outcome.ToString().c_str());
  return 1;
}
