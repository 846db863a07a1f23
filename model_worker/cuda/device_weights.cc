#include "model_worker/cuda/device_weights.h"

#include <algorithm>
#include <utility>

#include "model_worker/fusion.h"

namespace engram::gpu {
namespace {

class Uploader {
 public:
  [[nodiscard]] static Result<Uploader> Create() {
    Uploader uploader;
    ENGRAM_ASSIGN_OR_RETURN(uploader.stream_, MakeStream());
    ENGRAM_ASSIGN_OR_RETURN(uploader.floats_,
                            DeviceArray<float>::Create(kPieceFloats, "loading weights"));
    return uploader;
  }

  // As it is, in fp32.
  [[nodiscard]] Result<DeviceArray<float>> Vector(std::vector<float> values) {
    ENGRAM_ASSIGN_OR_RETURN(auto array, DeviceArray<float>::Create(values.size(), "a weight"));
    if (values.empty()) return array;
    ENGRAM_TRY(
        CudaStatus(cudaMemcpy(array.data(), values.data(), array.bytes(), cudaMemcpyHostToDevice),
                   "loading weights"));
    return array;
  }

  // Rounded to bf16, one under the other.
  [[nodiscard]] Result<DeviceArray<Bf16>> Matrices(std::vector<Matrix*> matrices) {
    size_t count = 0;
    for (const Matrix* matrix : matrices) count += matrix->values.size();
    ENGRAM_ASSIGN_OR_RETURN(auto array, DeviceArray<Bf16>::Create(count, "a weight matrix"));
    Bf16* out = array.data();
    for (Matrix* matrix : matrices) {
      ENGRAM_TRY(Round(matrix->values, out));
      out += matrix->values.size();
      matrix->values = {};
    }
    return array;
  }

 private:
  static constexpr size_t kPieceFloats = size_t{16} << 20;

  [[nodiscard]] Status Round(const std::vector<float>& values, Bf16* out) {
    for (size_t at = 0; at < values.size(); at += kPieceFloats) {
      const size_t count = std::min(kPieceFloats, values.size() - at);
      ENGRAM_CUDA_TRY(cudaMemcpyAsync(floats_.data(), values.data() + at, count * sizeof(float),
                                      cudaMemcpyHostToDevice, stream_.get()),
                      "loading weights");
      ENGRAM_CUDA_TRY(LaunchToBf16(floats_.data(), count, out + at, stream_.get()),
                      "rounding weights");
    }
    ENGRAM_CUDA_TRY(cudaStreamSynchronize(stream_.get()), "loading weights");
    return {};
  }

  Stream stream_;
  DeviceArray<float> floats_;
};

Result<DeviceLayer> UploadLayer(Uploader* uploader, LayerWeights weights) {
  DeviceLayer layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.input_norm, uploader->Vector(std::move(weights.input_norm)));
  ENGRAM_ASSIGN_OR_RETURN(layer.q_norm, uploader->Vector(std::move(weights.q_norm)));
  ENGRAM_ASSIGN_OR_RETURN(layer.k_norm, uploader->Vector(std::move(weights.k_norm)));
  ENGRAM_ASSIGN_OR_RETURN(layer.post_attention_norm,
                          uploader->Vector(std::move(weights.post_attention_norm)));
  ENGRAM_ASSIGN_OR_RETURN(layer.qkv, uploader->Matrices({&weights.q, &weights.k, &weights.v}));
  ENGRAM_ASSIGN_OR_RETURN(layer.o, uploader->Matrices({&weights.o}));
  ENGRAM_ASSIGN_OR_RETURN(layer.gate_up, uploader->Matrices({&weights.gate, &weights.up}));
  ENGRAM_ASSIGN_OR_RETURN(layer.down, uploader->Matrices({&weights.down}));
  return layer;
}

Result<DeviceEngramLayer> UploadEngram(Uploader* uploader, EngramLayerWeights weights,
                                       const ModelConfig& config, const Backend::Limits& limits) {
  DeviceEngramLayer layer;
  layer.layer_id = weights.layer_id;
  ENGRAM_ASSIGN_OR_RETURN(layer.keys_value, uploader->Matrices({&weights.keys_value}));
  std::vector<float> product = std::move(weights.query_norm);
  for (size_t i = 0; i < product.size(); ++i) product[i] *= weights.key_norm[i];
  ENGRAM_ASSIGN_OR_RETURN(layer.query_key, uploader->Vector(std::move(product)));
  if (config.engram->variant != Variant::kDemo) return layer;
  ENGRAM_ASSIGN_OR_RETURN(layer.bias, uploader->Vector(std::move(weights.bias)));
  ENGRAM_ASSIGN_OR_RETURN(layer.conv_norm, uploader->Vector(std::move(weights.conv_norm)));
  ENGRAM_ASSIGN_OR_RETURN(layer.conv, uploader->Vector(std::move(weights.conv)));
  const auto rows = static_cast<size_t>(
      ConvHistoryRows(config.engram->demo_kernel_size, config.engram->max_ngram_size));
  ENGRAM_ASSIGN_OR_RETURN(layer.conv_history,
                          DeviceArray<float>::Create(
                              limits.sequences_max * rows * static_cast<size_t>(config.hidden_size),
                              "the convolution state of all sequences"));
  return layer;
}

}  // namespace

Result<DeviceWeights> UploadWeights(ModelWeights weights, const ModelConfig& config,
                                    const Backend::Limits& limits) {
  ENGRAM_ASSIGN_OR_RETURN(Uploader uploader, Uploader::Create());
  DeviceWeights device;
  ENGRAM_ASSIGN_OR_RETURN(device.embedding, uploader.Matrices({&weights.embedding}));
  if (weights.lm_head.has_value()) {
    ENGRAM_ASSIGN_OR_RETURN(device.lm_head, uploader.Matrices({&*weights.lm_head}));
  }
  ENGRAM_ASSIGN_OR_RETURN(device.final_norm, uploader.Vector(std::move(weights.final_norm)));
  for (LayerWeights& layer : weights.layers) {
    ENGRAM_ASSIGN_OR_RETURN(DeviceLayer made, UploadLayer(&uploader, std::move(layer)));
    device.layers.push_back(std::move(made));
  }
  for (EngramLayerWeights& layer : weights.engram) {
    ENGRAM_ASSIGN_OR_RETURN(DeviceEngramLayer made,
                            UploadEngram(&uploader, std::move(layer), config, limits));
    device.engram.push_back(std::move(made));
  }
  return device;
}

}  // namespace engram::gpu
