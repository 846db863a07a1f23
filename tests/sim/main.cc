// engram-sim: histories of a simulated cluster, by the million, and any of them again.
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/sim/simulation.h"

namespace engram::sim {
namespace {

// Sent through a pipe as it is.
struct Totals {
  uint64_t seeds = 0;
  uint64_t violations = 0;
  Figures figures;
};

Totals RunSeeds(uint64_t first, uint64_t count, uint64_t step, PlantedBug bug, bool stop_at_first) {
  Totals totals;
  for (uint64_t seed = first; seed < first + count; seed += step) {
    const Outcome outcome = Simulate({seed, bug, false});
    ++totals.seeds;
    totals.figures.Add(outcome.figures);
    if (outcome.violation.empty()) continue;
    ++totals.violations;
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed),
                outcome.violation.c_str());
    std::fflush(stdout);
    if (stop_at_first) break;
  }
  return totals;
}

void Print(const Totals& all, uint64_t first, double took) {
  const auto number = [](uint64_t value) { return std::to_string(value); };
  const Figures& figures = all.figures;
  std::printf("%s seeds from %s in %.1f s: %s violated an invariant\n", number(all.seeds).c_str(),
              number(first).c_str(), took, number(all.violations).c_str());
  std::printf("  %s steps, %s faults, %s terms, %s checks of memory against leases\n",
              number(figures.steps).c_str(), number(figures.faults).c_str(),
              number(figures.terms).c_str(), number(figures.checks).c_str());
  std::printf("  %s batches (%s failed), %s rows (%s mapped), %s reads hedged\n",
              number(figures.batches).c_str(), number(figures.batches_failed).c_str(),
              number(figures.rows).c_str(), number(figures.rows_mapped).c_str(),
              number(figures.reads_hedged).c_str());
}

}  // namespace
}  // namespace engram::sim

int main(int argc, char** argv) {
  using namespace engram::sim;
  CLI::App app(
      "Histories of a simulated cluster: the production cluster state, slot stores, leases and\n"
      "read schedulers over a simulated clock, network, store and processes, with faults from a\n"
      "seed. Prints every seed in which an invariant does not hold; exits 1 if there is one.\n"
      "Example: engram-sim --seeds 1000000 --jobs 8; then engram-sim --replay SEED");
  uint64_t first = 1;
  uint64_t seeds = 10'000;
  uint64_t jobs = 2;
  uint64_t replay = 0;
  std::string planted = "none";
  app.add_option("--first", first, "first seed")->capture_default_str();
  app.add_option("--seeds", seeds, "how many")->capture_default_str();
  app.add_option("--jobs", jobs, "processes at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_option("--replay", replay, "one seed, with everything that happens in it");
  app.add_option("--plant", planted,
                 "a mistake to plant: skip-lease-wait, reuse-epoch, forget-fence,\n"
                 "drop-acknowledgement, publish-before-verify")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  PlantedBug bug = PlantedBug::kNone;
  for (const PlantedBug known : kPlantedBugs) {
    if (planted == NameOf(known)) bug = known;
  }
  if (bug == PlantedBug::kNone && planted != "none") {
    std::fprintf(stderr, "engram-sim: --plant %s is not known; see --help\n", planted.c_str());
    return 2;
  }
  if (replay != 0) {
    const Outcome outcome = Simulate({replay, bug, true});
    std::printf("seed %llu: %s\n", static_cast<unsigned long long>(replay),
                outcome.violation.empty() ? "every invariant held" : outcome.violation.c_str());
    return outcome.violation.empty() ? 0 : 1;
  }
  const auto began = std::chrono::steady_clock::now();
  std::vector<int> pipes;
  for (uint64_t job = 0; job < jobs; ++job) {
    int ends[2];
    if (pipe(ends) != 0) {
      std::perror("engram-sim: pipe");
      return 2;
    }
    const pid_t child = fork();
    if (child < 0) {
      std::perror("engram-sim: fork");
      return 2;
    }
    if (child == 0) {
      const Totals totals =
          job < seeds ? RunSeeds(first + job, seeds - job, jobs, bug, bug != PlantedBug::kNone)
                      : Totals{};
      const bool told = write(ends[1], &totals, sizeof(totals)) == sizeof(totals);
      _exit(told ? 0 : 2);
    }
    close(ends[1]);
    pipes.push_back(ends[0]);
  }
  Totals all;
  bool died = false;
  for (const int end : pipes) {
    Totals part;
    if (read(end, &part, sizeof(part)) != sizeof(part)) died = true;
    all.seeds += part.seeds;
    all.violations += part.violations;
    all.figures.Add(part.figures);
    close(end);
  }
  while (wait(nullptr) > 0) {
  }
  const double took =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  Print(all, first, took);
  if (died) {
    std::fprintf(stderr, "engram-sim: a process died; run with --jobs 1 to see where\n");
    return 2;
  }
  return all.violations == 0 ? 0 : 1;
}
