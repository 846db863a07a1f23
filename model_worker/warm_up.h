// One step of each size before there are requests.
#pragma once

#include <optional>

#include "engram/base/status.h"
#include "model_worker/backend.h"

namespace engram {

// Of one token and Engram layer.
struct WarmUpRows {
  uint32_t columns = 0;
  uint32_t row_bytes = 0;
};

// Computes a prefill step of limits().step_tokens_max tokens, of half as many and so on down to
// one, and decode steps of as many sequences, with rows of zeros: so that what is loaded or chosen
// at first use (on a GPU the kernels of matrix products, a tenth of a second together) does not
// keep the first requests waiting. Every slot is reset afterwards.
//   rows  nullopt = Engram off
// ERRORS: the backend's, but kResourceExhausted (refused before anything was computed: the KV cache
// is smaller than all slots): then that size is left out.
[[nodiscard]] Status WarmUp(Backend* backend, const std::optional<WarmUpRows>& rows);

}  // namespace engram
