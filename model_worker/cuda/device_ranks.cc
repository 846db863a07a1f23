#include "model_worker/cuda/device_ranks.h"

#include <string>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <nccl.h>

#include "model_worker/collectives/agreement.h"

namespace engram::gpu {
namespace {

// NCCL's functions, out of its library.
struct Nccl {
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRank) comm_init_rank = nullptr;
  decltype(&ncclCommDestroy) comm_destroy = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclCommGetAsyncError) comm_get_async_error = nullptr;

  [[nodiscard]] Status Check(ncclResult_t result, const char* what) const {
    if (result == ncclSuccess) return {};
    return {StatusCode::kInternal,
            std::string("NCCL, ") + what + ": " + error_string(result) +
                " (NCCL_DEBUG=INFO tells more; every rank needs a GPU of its own)"};
  }
};

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(::dlsym(library, name));
  return *function != nullptr;
}

// Stays loaded: its threads may be running until the process ends.
Result<Nccl> LoadNccl() {
  constexpr const char* kLibrary = "libnccl.so.2";
  void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  Nccl nccl;
  if (library != nullptr && Find(library, "ncclGetErrorString", &nccl.error_string) &&
      Find(library, "ncclGetUniqueId", &nccl.get_unique_id) &&
      Find(library, "ncclCommInitRank", &nccl.comm_init_rank) &&
      Find(library, "ncclCommDestroy", &nccl.comm_destroy) &&
      Find(library, "ncclAllReduce", &nccl.all_reduce) &&
      Find(library, "ncclCommGetAsyncError", &nccl.comm_get_async_error)) {
    return nccl;
  }
  const char* const error = ::dlerror();
  return Error(StatusCode::kFailedPrecondition,
               std::string("GPUs share a model by NCCL, and it cannot be loaded (") +
                   (error == nullptr ? kLibrary : error) +
                   "): install it (pip's nvidia-nccl-cu13, or libnccl2) and put its folder into "
                   "LD_LIBRARY_PATH");
}

class NcclRanks final : public DeviceRanks {
 public:
  NcclRanks(const Nccl& nccl, ncclComm_t ranks) : nccl_(nccl), ranks_(ranks) {}
  ~NcclRanks() override { (void)nccl_.comm_destroy(ranks_); }
  NcclRanks(const NcclRanks&) = delete;
  NcclRanks& operator=(const NcclRanks&) = delete;

  [[nodiscard]] Status AllReduce(float* values, size_t count, cudaStream_t stream) override {
    return nccl_.Check(
        nccl_.all_reduce(values, values, count, ncclFloat32, ncclSum, ranks_, stream),
        "an all-reduce");
  }

  [[nodiscard]] Status Look() const override {
    ncclResult_t noticed = ncclSuccess;
    ENGRAM_RETURN_IF_ERROR(
        nccl_.Check(nccl_.comm_get_async_error(ranks_, &noticed), "asking for errors"));
    if (noticed == ncclInProgress) return {};
    return nccl_.Check(noticed, "in the middle of a step");
  }

 private:
  const Nccl nccl_;
  ncclComm_t ranks_;
};

}  // namespace

Result<std::unique_ptr<DeviceRanks>> DeviceRanks::Join(Collective* collective) {
  const auto nccl = LoadNccl();
  ENGRAM_TRY(AgreeOn(collective, nccl.has_value() ? Status() : nccl.error()));
  ncclUniqueId id{};
  Status made;
  if (collective->rank() == 0) {
    made = nccl->Check(nccl->get_unique_id(&id), "finding the network");
  }
  ENGRAM_TRY(AgreeOn(collective, made));
  // Rank 0's block is all there is.
  std::vector<std::span<std::byte>> blocks(collective->rank_count());
  blocks[0] = std::as_writable_bytes(std::span(&id, 1));
  ENGRAM_TRY(collective->AllGather(blocks));
  ncclComm_t ranks = nullptr;
  const Status joined =
      nccl->Check(nccl->comm_init_rank(&ranks, static_cast<int>(collective->rank_count()), id,
                                       static_cast<int>(collective->rank())),
                  "joining the ranks");
  ENGRAM_TRY(AgreeOn(collective, joined));
  return std::make_unique<NcclRanks>(*nccl, ranks);
}

}  // namespace engram::gpu
