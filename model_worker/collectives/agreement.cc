#include "model_worker/collectives/agreement.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "engram/base/check.h"

namespace engram {
namespace {

// Of an error, what other ranks are told.
constexpr size_t kMessageTold = 1000;

// One value of each rank.
template <typename T>
Status GatherValues(Collective* collective, const T& mine, std::vector<T>* all) {
  all->resize(collective->rank_count());
  (*all)[collective->rank()] = mine;
  std::vector<std::span<std::byte>> blocks;
  for (T& value : *all) blocks.push_back(std::as_writable_bytes(std::span(&value, 1)));
  return collective->AllGather(blocks);
}

}  // namespace

Status TellFailure(Collective* collective, std::span<const StatusCode> codes, const Status& mine,
                   Status* failure) {
  const auto first =
      std::find_if(codes.begin(), codes.end(), [](StatusCode c) { return c != StatusCode::kOk; });
  ENGRAM_CHECK(first != codes.end());
  const auto failed = static_cast<uint32_t>(first - codes.begin());
  std::vector<std::byte> message(kMessageTold);
  if (collective->rank() == failed) {
    std::memcpy(message.data(), mine.message().data(),
                std::min(message.size(), mine.message().size()));
  }
  std::vector<std::span<std::byte>> blocks(codes.size());
  blocks[failed] = message;
  ENGRAM_RETURN_IF_ERROR(collective->AllGather(blocks));
  const auto* text = reinterpret_cast<const char*>(message.data());
  *failure =
      Status(*first, "rank " + std::to_string(failed) + " of " + std::to_string(codes.size()) +
                         ": " + std::string(text, ::strnlen(text, message.size())));
  return {};
}

Status AgreeOn(Collective* collective, const Status& mine) {
  if (collective == nullptr) return mine;
  std::vector<StatusCode> codes;
  ENGRAM_RETURN_IF_ERROR(GatherValues(collective, mine.code(), &codes));
  const bool all_ok =
      std::all_of(codes.begin(), codes.end(), [](StatusCode c) { return c == StatusCode::kOk; });
  Status failure;
  if (!all_ok) ENGRAM_RETURN_IF_ERROR(TellFailure(collective, codes, mine, &failure));
  return failure;
}

Status AgreeOnSame(Collective* collective, std::string_view text) {
  if (collective == nullptr) return {};
  std::vector<uint64_t> digests;
  // Ranks are processes of one program, so one hash function.
  ENGRAM_RETURN_IF_ERROR(
      GatherValues<uint64_t>(collective, std::hash<std::string_view>{}(text), &digests));
  for (size_t rank = 1; rank < digests.size(); ++rank) {
    if (digests[rank] == digests[0]) continue;
    return {StatusCode::kInvalidArgument,
            "rank " + std::to_string(rank) +
                " was started with another model or other flags than rank 0: mpirun must start all "
                "ranks with one command line, and each must find the same model folder"};
  }
  return {};
}

}  // namespace engram
