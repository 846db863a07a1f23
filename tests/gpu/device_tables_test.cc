// Tables on their way into GPU memory.
#include "model_worker/cuda/device_tables.h"

#include <cstring>

#include "tests/gpu/gpu_test.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram::gpu {
namespace {

class DeviceTablesTest : public GpuTest {};

TEST_F(DeviceTablesTest, TheGpuHoldsTheCheckpointsRowsInOrder) {
  test::TinyModelShape shape;
  shape.base_size = 20011;  // several pieces
  const test::ScratchDir scratch;
  const auto model = test::TinyModel::Write(shape, scratch.path());
  auto opened = CheckpointRows::Open(model.dir(), model.layout());
  ASSERT_TRUE(opened.has_value()) << opened.error().ToString();
  CheckpointRows rows = *std::move(opened);
  uint64_t done = 0;
  const auto tables =
      DeviceTables::Load(&rows, [&](uint64_t now, uint64_t /*total*/) { done = now; });
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_EQ(done, rows.total_bytes());
  for (int32_t layer = 0; layer < rows.layout().layer_count(); ++layer) {
    const auto count = static_cast<uint32_t>(rows.layout().row_count(layer));
    ASSERT_GT(count, CheckpointRows::kPieceRowsMax);
    std::vector<std::byte> wanted(size_t{count} * rows.layout().row_bytes());
    ASSERT_TRUE(rows.Read(layer, RowId(0), count, wanted).ok());
    std::vector<std::byte> got(wanted.size());
    ExpectCuda(cudaMemcpy(got.data(), (*tables)->rows(layer), got.size(), cudaMemcpyDeviceToHost));
    EXPECT_EQ(std::memcmp(got.data(), wanted.data(), got.size()), 0) << layer;
  }
}

}  // namespace
}  // namespace engram::gpu
