#include "model_worker/cuda/matmul.h"

#include "tests/gpu/gpu_test.h"

namespace engram::gpu {
namespace {

class MatmulTest : public GpuTest {};

TEST_F(MatmulTest, ProductsEqualSumsInDoubleForEveryOutput) {
  auto matmuls = Matmuls::Create();
  ASSERT_TRUE(matmuls.has_value()) << matmuls.error().ToString();
  // The last: rows that are not whole 16-byte units, as an intermediate size of 100 has.
  const std::vector<MatmulShape> shapes = {{1, 64, 64},   {2, 512, 256},   {16, 192, 1024},
                                           {48, 136, 96}, {256, 128, 512}, {5, 200, 100}};
  for (MatmulShape shape : shapes) {
    const auto x = ToBf16(RandomFloats(size_t{shape.rows} * shape.inputs, 0, 1, 1));
    const auto w = ToBf16(RandomFloats(size_t{shape.outputs} * shape.inputs, 0, 0.1f, 2));
    const auto y = RandomFloats(size_t{shape.rows} * shape.outputs, 0, 1, 3);
    std::vector<double> product(y.size());
    for (size_t r = 0; r < shape.rows; ++r) {
      for (size_t o = 0; o < shape.outputs; ++o) {
        for (size_t i = 0; i < shape.inputs; ++i) {
          product[r * shape.outputs + o] +=
              double{ToFloat(x[r * shape.inputs + i])} * ToFloat(w[o * shape.inputs + i]);
        }
      }
    }
    const auto device_x = Upload(x);
    const auto device_w = Upload(w);
    const auto run = [&](MatmulShape::Output output, void* out) {
      shape.output = output;
      const Status status = (*matmuls)->Run(shape, device_x.data(), device_w.data(), out, nullptr);
      ASSERT_TRUE(status.ok()) << status.ToString();
    };
    auto bf16 = Poisoned<Bf16>(y.size());
    run(MatmulShape::Output::kBf16, bf16.data());
    EXPECT_LT(RelativeError(Download(bf16), product), 4e-3);
    auto f32 = Poisoned<float>(y.size());
    run(MatmulShape::Output::kF32, f32.data());
    EXPECT_LT(RelativeError(Download(f32), product), 1e-5);
    auto sum = Upload(y);
    run(MatmulShape::Output::kAddF32, sum.data());
    for (size_t i = 0; i < y.size(); ++i) product[i] += y[i];
    EXPECT_LT(RelativeError(Download(sum), product), 1e-5);
  }
}

}  // namespace
}  // namespace engram::gpu
