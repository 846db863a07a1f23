// Token ids as users keep them: one JSON list.
#pragma once

#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"

namespace engram {

// "[1, 2, 3]" -> ids. `name` is for messages.
// ERRORS: kMalformed naming the first item that is not a whole number of 32 bits.
[[nodiscard]] Result<std::vector<TokenId>> ParseTokenIds(std::string_view json,
                                                         std::string_view name);

}  // namespace engram
