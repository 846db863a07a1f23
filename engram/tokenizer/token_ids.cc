#include "engram/tokenizer/token_ids.h"

#include <limits>
#include <string>

#include <nlohmann/json.hpp>

namespace engram {

Result<std::vector<TokenId>> ParseTokenIds(std::string_view json, std::string_view name) {
  const auto document = nlohmann::json::parse(json, nullptr, false);
  if (!document.is_array()) {
    return Error(StatusCode::kMalformed,
                 std::string(name) + " is not one JSON list of token ids, such as [1, 2, 3]");
  }
  std::vector<TokenId> ids;
  ids.reserve(document.size());
  for (const auto& item : document) {
    constexpr auto kLow = std::numeric_limits<TokenId>::min();
    constexpr auto kHigh = std::numeric_limits<TokenId>::max();
    // Unsigned numbers past int64 would come back negative.
    const bool fits = item.is_number_unsigned() ? item.get<uint64_t>() <= uint64_t{kHigh}
                      : item.is_number_integer()
                          ? item.get<int64_t>() >= kLow && item.get<int64_t>() <= kHigh
                          : false;
    if (!fits) {
      return Error(StatusCode::kMalformed, std::string(name) + ": item " +
                                               std::to_string(ids.size()) +
                                               " is not a whole number of 32 bits");
    }
    ids.push_back(static_cast<TokenId>(item.get<int64_t>()));
  }
  return ids;
}

}  // namespace engram
