// Matmuls as plain loops, in place of cuBLASLt.
#include "model_worker/cuda/matmul.h"

namespace engram::gpu {

struct Matmuls::Plan {};

Result<std::unique_ptr<Matmuls>> Matmuls::Create() {
  return std::unique_ptr<Matmuls>(new Matmuls());
}
Matmuls::~Matmuls() = default;

Status Matmuls::Run(const MatmulShape& shape, const __nv_bfloat16* x, const __nv_bfloat16* weights,
                    void* y, cudaStream_t stream) {
  cuda_on_host::Enqueue(stream, {[=] {
                          const auto floats = [&](const __nv_bfloat16* values, size_t count) {
                            std::vector<float> out(count);
                            for (size_t i = 0; i < count; ++i) out[i] = __bfloat162float(values[i]);
                            return out;
                          };
                          const size_t inputs = shape.inputs, outputs = shape.outputs;
                          const std::vector<float> a = floats(x, shape.rows * inputs);
                          const std::vector<float> b = floats(weights, outputs * inputs);
                          for (size_t row = 0; row < shape.rows; ++row) {
                            for (size_t column = 0; column < outputs; ++column) {
                              float sum = 0;
                              for (size_t i = 0; i < inputs; ++i)
                                sum += a[row * inputs + i] * b[column * inputs + i];
                              const size_t at = row * outputs + column;
                              switch (shape.output) {
                                case MatmulShape::Output::kBf16:
                                  static_cast<__nv_bfloat16*>(y)[at] = __float2bfloat16_rn(sum);
                                  break;
                                case MatmulShape::Output::kF32:
                                  static_cast<float*>(y)[at] = sum;
                                  break;
                                case MatmulShape::Output::kAddF32:
                                  static_cast<float*>(y)[at] += sum;
                                  break;
                              }
                            }
                          }
                        }});
  return {};
}

}  // namespace engram::gpu
