#include "model_worker/cuda/matmul.h"

#include <string>
#include <utility>

namespace engram::gpu {
namespace {

// What NVIDIA recommends for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

struct DescDestroy {
  void operator()(cublasLtMatmulDesc_t p) const { (void)cublasLtMatmulDescDestroy(p); }
};
struct LayoutDestroy {
  void operator()(cublasLtMatrixLayout_t p) const { (void)cublasLtMatrixLayoutDestroy(p); }
};
struct PreferenceDestroy {
  void operator()(cublasLtMatmulPreference_t p) const { (void)cublasLtMatmulPreferenceDestroy(p); }
};
using Desc = std::unique_ptr<std::remove_pointer_t<cublasLtMatmulDesc_t>, DescDestroy>;
using MatrixLayout = std::unique_ptr<std::remove_pointer_t<cublasLtMatrixLayout_t>, LayoutDestroy>;
using Preference =
    std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, PreferenceDestroy>;

std::string ShapeText(const MatmulShape& shape) {
  return std::to_string(shape.rows) + " x " + std::to_string(shape.inputs) + " by " +
         std::to_string(shape.inputs) + " x " + std::to_string(shape.outputs);
}

Status CublasStatus(cublasStatus_t status, const std::string& what) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return {StatusCode::kInternal, "cuBLASLt, " + what + ": " + cublasLtGetStatusName(status)};
}

Result<MatrixLayout> MakeLayout(cudaDataType type, uint64_t rows, uint64_t columns,
                                const std::string& what) {
  cublasLtMatrixLayout_t layout = nullptr;
  ENGRAM_TRY(CublasStatus(
      cublasLtMatrixLayoutCreate(&layout, type, rows, columns, static_cast<int64_t>(rows)), what));
  return MatrixLayout(layout);
}

}  // namespace

struct Matmuls::Plan {
  Desc desc;
  MatrixLayout weights, x, y;
  cublasLtMatmulAlgo_t algo;
  float beta = 0;
};

Result<std::unique_ptr<Matmuls>> Matmuls::Create() {
  std::unique_ptr<Matmuls> matmuls(new Matmuls());
  ENGRAM_TRY(CublasStatus(cublasLtCreate(&matmuls->handle_), "starting"));
  ENGRAM_ASSIGN_OR_RETURN(matmuls->workspace_,
                          DeviceArray<uint8_t>::Create(kWorkspaceBytes, "cuBLASLt's workspace"));
  return matmuls;
}

Matmuls::~Matmuls() {
  if (handle_ != nullptr) (void)cublasLtDestroy(handle_);
}

Result<const Matmuls::Plan*> Matmuls::Get(const MatmulShape& shape) {
  if (const auto found = plans_.find(shape); found != plans_.end()) return found->second.get();
  const std::string what = "planning " + ShapeText(shape);
  auto plan = std::make_unique<Plan>();
  cublasLtMatmulDesc_t desc = nullptr;
  ENGRAM_TRY(CublasStatus(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), what));
  plan->desc.reset(desc);
  // cuBLAS counts by columns: our row-major W is its [inputs][outputs], so it must be transposed; x
  // and y are its [inputs][rows] and [outputs][rows].
  const cublasOperation_t transposed = CUBLAS_OP_T;
  ENGRAM_TRY(CublasStatus(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                                         &transposed, sizeof(transposed)),
                          what));
  const cudaDataType y_type = shape.output == MatmulShape::Output::kBf16 ? CUDA_R_16BF : CUDA_R_32F;
  ENGRAM_ASSIGN_OR_RETURN(plan->weights,
                          MakeLayout(CUDA_R_16BF, shape.inputs, shape.outputs, what));
  ENGRAM_ASSIGN_OR_RETURN(plan->x, MakeLayout(CUDA_R_16BF, shape.inputs, shape.rows, what));
  ENGRAM_ASSIGN_OR_RETURN(plan->y, MakeLayout(y_type, shape.outputs, shape.rows, what));
  plan->beta = shape.output == MatmulShape::Output::kAddF32 ? 1.0f : 0.0f;

  cublasLtMatmulPreference_t preference_made = nullptr;
  ENGRAM_TRY(CublasStatus(cublasLtMatmulPreferenceCreate(&preference_made), what));
  const Preference preference(preference_made);
  const size_t workspace = kWorkspaceBytes;
  ENGRAM_TRY(CublasStatus(cublasLtMatmulPreferenceSetAttribute(
                              preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                              &workspace, sizeof(workspace)),
                          what));
  // Parts of a sum, where it is cut, are kept apart in fp32 and added in order.
  const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  ENGRAM_TRY(CublasStatus(cublasLtMatmulPreferenceSetAttribute(
                              preference.get(), CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                              &reductions, sizeof(reductions)),
                          what));
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  ENGRAM_TRY(CublasStatus(cublasLtMatmulAlgoGetHeuristic(
                              handle_, desc, plan->weights.get(), plan->x.get(), plan->y.get(),
                              plan->y.get(), preference.get(), 1, &best, &found),
                          what));
  if (found == 0) return Error(StatusCode::kInternal, "cuBLASLt has no way of " + what);
  plan->algo = best.algo;
  return plans_.emplace(shape, std::move(plan)).first->second.get();
}

Status Matmuls::Run(const MatmulShape& shape, const __nv_bfloat16* x, const __nv_bfloat16* weights,
                    void* y, cudaStream_t stream) {
  const Result<const Plan*> plan = Get(shape);
  if (!plan.has_value()) return plan.error();
  const float alpha = 1.0f;
  const cublasStatus_t status =
      cublasLtMatmul(handle_, (*plan)->desc.get(), &alpha, weights, (*plan)->weights.get(), x,
                     (*plan)->x.get(), &(*plan)->beta, y, (*plan)->y.get(), y, (*plan)->y.get(),
                     &(*plan)->algo, workspace_.data(), workspace_.size(), stream);
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return CublasStatus(status, "computing " + ShapeText(shape));
}

}  // namespace engram::gpu
