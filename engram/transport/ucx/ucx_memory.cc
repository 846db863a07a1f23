#include "engram/transport/ucx/ucx_memory.h"

#include <cinttypes>
#include <cstdio>
#include <fstream>

#include "engram/transport/ucx/ucx_status.h"

namespace engram {
namespace {

// Whether the mapping at `address` has pages above 4 KiB, as /proc/self/smaps tells it.
bool HasHugePages(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uintptr_t first = 0;
    uintptr_t last = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR, &first, &last) == 2) {
      if (inside) return false;
      inside = first <= wanted && wanted < last;
      continue;
    }
    if (!inside) continue;
    unsigned long kib = 0;
    if (std::sscanf(line.c_str(), "KernelPageSize: %lu kB", &kib) == 1 && kib > 4) return true;
    if (std::sscanf(line.c_str(), "AnonHugePages: %lu kB", &kib) == 1 && kib > 0) return true;
    if (std::sscanf(line.c_str(), "ShmemPmdMapped: %lu kB", &kib) == 1 && kib > 0) return true;
  }
  return false;
}

}  // namespace

Result<std::unique_ptr<UcxMemory>> UcxMemory::Map(const UcxContext& context,
                                                  const ucp_mem_map_params_t& params,
                                                  uint64_t bytes) {
  ucp_mem_h handle = nullptr;
  ucs_status_t status = ucp_mem_map(context.handle(), &params, &handle);
  if (status != UCS_OK) {
    return Error(StatusCode::kResourceExhausted,
                 "UCX cannot map " + std::to_string(bytes) + " bytes (" +
                     ucs_status_string(status) +
                     "): free memory, or raise the shared memory limits (kernel.shmmax, /dev/shm)");
  }
  std::unique_ptr<UcxMemory> memory(new UcxMemory(context, handle));
  ucp_mem_attr_t attributes{};
  attributes.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS | UCP_MEM_ATTR_FIELD_LENGTH;
  status = ucp_mem_query(handle, &attributes);
  if (status != UCS_OK) return Error(UcxStatus(status, "querying mapped memory"));
  memory->bytes_ = {static_cast<std::byte*>(attributes.address), bytes};
  return memory;
}

Result<std::unique_ptr<UcxMemory>> UcxMemory::Allocate(const UcxContext& context, uint64_t bytes) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS;
  params.length = bytes;
  // Not touched here: the loader's first writes place each page.
  params.flags = UCP_MEM_MAP_ALLOCATE | UCP_MEM_MAP_NONBLOCK;
  auto memory = Map(context, params, bytes);
  if (memory.has_value() && bytes > 0) {
    (*memory)->bytes_[0] = std::byte{0};  // smaps tells of pages that exist
    (*memory)->huge_pages_ = HasHugePages((*memory)->bytes_.data());
  }
  return memory;
}

Result<std::unique_ptr<UcxMemory>> UcxMemory::Register(const UcxContext& context,
                                                       std::span<std::byte> memory) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.memory_type = UCS_MEMORY_TYPE_HOST;  // a GPU's too (UcxContext::Options::into_gpu)
  params.address = memory.data();
  params.length = memory.size();
  auto registered = Map(context, params, memory.size());
  if (registered.has_value()) (*registered)->bytes_ = memory;
  return registered;
}

UcxMemory::~UcxMemory() { ucp_mem_unmap(context_.handle(), memory_); }

Result<std::string> UcxMemory::PackKey() const {
  void* packed = nullptr;
  size_t bytes = 0;
  const ucs_status_t status = ucp_rkey_pack(context_.handle(), memory_, &packed, &bytes);
  if (status != UCS_OK) return Error(UcxStatus(status, "packing a memory key"));
  std::string key(static_cast<const char*>(packed), bytes);
  ucp_rkey_buffer_release(packed);
  return key;
}

}  // namespace engram
