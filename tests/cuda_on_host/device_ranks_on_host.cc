// DeviceRanks over the ranks' Collective, in place of NCCL. As there, an all-reduce waits on the
// stream, not where it is enqueued.
#include "engram/base/check.h"
#include "model_worker/cuda/device_ranks.h"

namespace engram::gpu {
namespace {

class RanksOnHost final : public DeviceRanks {
 public:
  explicit RanksOnHost(Collective* collective) : collective_(collective) {}

  [[nodiscard]] Status AllReduce(float* values, size_t count, cudaStream_t stream) override {
    cuda_on_host::Enqueue(stream, {[this, values, count] {
                            ENGRAM_CHECK(collective_->AllReduce({values, count}).ok());
                          }});
    return {};
  }
  [[nodiscard]] Status Look() const override { return {}; }

 private:
  Collective* const collective_;
};

}  // namespace

Result<std::unique_ptr<DeviceRanks>> DeviceRanks::Join(Collective* collective) {
  return std::make_unique<RanksOnHost>(collective);
}

}  // namespace engram::gpu
