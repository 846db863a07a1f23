#include "model_worker/cpu/kernels_body.h"

namespace engram {

const Kernels* GenericKernels() {
  static constexpr Kernels kKernels = MakeKernels("generic");
  return &kKernels;
}

}  // namespace engram
