#include "model_worker/cpu/kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "model_worker/cpu/kernels_body.h"

namespace engram {

const Kernels* Avx2Kernels() {
  static constexpr Kernels kKernels = MakeKernels("avx2");
  const bool supported = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return supported ? &kKernels : nullptr;
}

}  // namespace engram
#else
namespace engram {
const Kernels* Avx2Kernels() { return nullptr; }
}  // namespace engram
#endif
