#include "model_worker/cuda/table_fit.h"

#include <string>

namespace engram::gpu {

Status CheckTablesFit(uint64_t table_bytes, uint64_t free_bytes) {
  if (free_bytes >= kTableSpareBytes && table_bytes <= free_bytes - kTableSpareBytes) return {};
  return {StatusCode::kResourceExhausted,
          "the tables need " + std::to_string(table_bytes) + " bytes of GPU memory and " +
              std::to_string(kTableSpareBytes) + " to spare; " + std::to_string(free_bytes) +
              " are free: read them from memory nodes (--rows remote) instead, or give the KV "
              "cache less (--kv-tokens, --concurrency)"};
}

}  // namespace engram::gpu
