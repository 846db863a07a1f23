#include "model_worker/cpu/kernels.h"

namespace engram {

const Kernels& CpuKernels() {
  if (const Kernels* kernels = Avx512Kernels()) return *kernels;
  if (const Kernels* kernels = Avx2Kernels()) return *kernels;
  return *GenericKernels();
}

}  // namespace engram
