#include <charconv>
#include <cstdlib>
#include <cstring>

#include "model_worker/collectives/mpi_ranks.h"

namespace engram {
namespace {

std::optional<uint32_t> NumberOf(const char* variable) {
  const char* const text = std::getenv(variable);
  if (text == nullptr) return std::nullopt;
  uint32_t number = 0;
  const char* const end = text + std::strlen(text);
  const auto [stopped, error] = std::from_chars(text, end, number);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return number;
}

}  // namespace

std::optional<LaunchedRanks> FindLaunchedRanks() {
  constexpr struct {
    const char* rank;
    const char* count;
  } kLaunchers[] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}};
  for (const auto& launcher : kLaunchers) {
    const auto rank = NumberOf(launcher.rank);
    const auto count = NumberOf(launcher.count);
    if (rank.has_value() && count.has_value() && *rank < *count) {
      return LaunchedRanks{*rank, *count};
    }
  }
  return std::nullopt;
}

}  // namespace engram
