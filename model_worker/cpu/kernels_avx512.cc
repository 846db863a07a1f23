#include "model_worker/cpu/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "model_worker/cpu/kernels_body.h"

namespace engram {

const Kernels* Avx512Kernels() {
  static constexpr Kernels kKernels = MakeKernels("avx512");
  const bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  return supported ? &kKernels : nullptr;
}

}  // namespace engram
#else
namespace engram {
const Kernels* Avx512Kernels() { return nullptr; }
}  // namespace engram
#endif
