// engram-bench-scale-client JOB OUTCOME: the client processes of engram-bench scale, which starts
// them with mpirun. All ranks read at the same time; rank 0 writes what they did together.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <mpi.h>

#include "bench/read_loop.h"
#include "bench/report.h"
#include "bench/scale_job.h"
#include "bench/v41_shape.h"

namespace engram::bench {
namespace {

constexpr uint32_t kCheckedTokensMax = 64;

struct Rank {
  int number = 0;
  int count = 1;
};

// One rank's reader, ready to be timed.
struct Reader {
  std::unique_ptr<TokenSource> tokens;
  std::unique_ptr<RowSource> rows;
  std::unique_ptr<ReadLoop> loop;
};

Result<Reader> Prepare(const ScaleJob& job, const Rank& rank) {
  ENGRAM_ASSIGN_OR_RETURN(
      TableLayout made, TableLayout::Create(V41Spec(job.bytes, kV41CompressedIds, kV41RowValues)));
  const auto layout = std::make_shared<const TableLayout>(std::move(made));
  ReaderOptions options;
  options.transport = job.transport;
  options.way = job.way;
  options.io_threads = job.io_threads;
  options.batch_tokens_max = job.batch_tokens;
  Reader reader;
  ENGRAM_ASSIGN_OR_RETURN(
      reader.rows, ConnectTo(job.nodes, options, layout, IdentityCompression(kV41CompressedIds)));
  reader.tokens = std::make_unique<TokenSource>(
      TokenSource::Random(kV41CompressedIds, job.seed + static_cast<uint64_t>(rank.number)));
  // The nodes' CPU time is counted once.
  reader.loop = std::make_unique<ReadLoop>(
      reader.rows.get(), rank.number == 0 ? job.nodes : std::vector<NodeContact>(),
      reader.tokens.get());
  ENGRAM_TRY(reader.loop->CheckContents(std::min(job.batch_tokens, kCheckedTokensMax)));
  const auto warm = reader.loop->Run(job.batch_tokens, job.seconds / 4);
  if (!warm.has_value()) return Error(warm.error());
  return reader;
}

Result<ScaleOutcome> Measure(const ScaleJob& job, const Reader& reader) {
  ENGRAM_ASSIGN_OR_RETURN(const Measured measured, reader.loop->Run(job.batch_tokens, job.seconds));
  ScaleOutcome outcome;
  outcome.rows_s = measured.rows_s;
  outcome.rows = measured.stats.rows_asked;
  outcome.reads = measured.stats.reads;
  outcome.client_cpu_seconds = 1e-9 * static_cast<double>(measured.stats.row_path_cpu_ns);
  outcome.node_cpu_seconds = measured.node_cpu_seconds;
  outcome.took = measured.took;
  return outcome;
}

// True if it is so on every rank.
bool AllRanks(bool here) {
  int ok = here ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &ok, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  return ok != 0;
}

// Every rank's text, on rank 0.
std::vector<std::string> GatherTexts(const std::string& text, const Rank& rank) {
  const int length = static_cast<int>(text.size());
  std::vector<int> lengths(static_cast<size_t>(rank.count));
  MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, 0, MPI_COMM_WORLD);
  std::vector<int> starts;
  int total = 0;
  for (const int each : lengths) {
    starts.push_back(total);
    total += rank.number == 0 ? each : 0;
  }
  std::string all(static_cast<size_t>(total), '\0');
  MPI_Gatherv(text.data(), length, MPI_CHAR, all.data(), lengths.data(), starts.data(), MPI_CHAR, 0,
              MPI_COMM_WORLD);
  std::vector<std::string> texts;
  if (rank.number != 0) return texts;
  for (size_t i = 0; i < lengths.size(); ++i) {
    texts.push_back(all.substr(static_cast<size_t>(starts[i]), static_cast<size_t>(lengths[i])));
  }
  return texts;
}

Status WriteTogether(const std::vector<std::string>& texts, const std::filesystem::path& file) {
  ScaleOutcome together;
  for (const std::string& text : texts) {
    const auto outcome = ScaleOutcome::FromText(text);
    if (!outcome.has_value()) return outcome.error();
    together.Merge(*outcome);
  }
  return WriteWholeFile(file, together.ToText());
}

Status Run(const std::filesystem::path& job_file, const std::filesystem::path& outcome_file,
           const Rank& rank) {
  const auto job = ReadJob(job_file);
  if (!AllRanks(job.has_value())) return job.has_value() ? Status() : job.error();
  const auto reader = Prepare(*job, rank);
  // Also where ranks wait for each other, so that they start together.
  if (!AllRanks(reader.has_value())) return reader.has_value() ? Status() : reader.error();
  const auto outcome = Measure(*job, *reader);
  if (!AllRanks(outcome.has_value())) return outcome.has_value() ? Status() : outcome.error();
  const std::vector<std::string> texts = GatherTexts(outcome->ToText(), rank);
  return rank.number == 0 ? WriteTogether(texts, outcome_file) : Status();
}

}  // namespace
}  // namespace engram::bench

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: mpirun -np N %s JOB OUTCOME (see engram-bench scale --help)\n",
                 argv[0]);
    return 2;
  }
  MPI_Init(nullptr, nullptr);
  engram::bench::Rank rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank.number);
  MPI_Comm_size(MPI_COMM_WORLD, &rank.count);
  const engram::Status status = engram::bench::Run(argv[1], argv[2], rank);
  if (!status.ok()) {
    std::fprintf(stderr, "client process %d: %s\n", rank.number, status.ToString().c_str());
  }
  MPI_Finalize();
  return status.ok() ? 0 : 1;
}
