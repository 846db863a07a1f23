#include "bench/step_profile.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engram/checkpoint/strict_json.h"

namespace engram::bench {
namespace {

constexpr int32_t kLayersMax = 10'000;
constexpr double kLayerUsMax = 60e6;

tl::unexpected<Status> Bad(std::string_view name, const char* what) {
  return Error(StatusCode::kMalformed, std::string(name) + ": " + what);
}

Duration FromUs(double us) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::micro>(us));
}

bool IsTime(const nlohmann::json& value) {
  return value.is_number() && value.get<double>() >= 0 && value.get<double>() <= kLayerUsMax;
}

}  // namespace

Result<StepProfile> StepProfile::Find(const std::string& name_or_file) {
  std::string names;
  for (const auto& [name, json] : ShippedProfiles()) {
    if (name == name_or_file) return Parse(json, name);
    names.append(names.empty() ? "" : ", ").append(name);
  }
  if (std::filesystem::exists(name_or_file)) return Read(name_or_file);
  return Error(StatusCode::kNotFound,
               "no profile '" + name_or_file + "': neither a file nor one of " + names);
}

Result<StepProfile> StepProfile::Read(const std::filesystem::path& file) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(file));
  return Parse(text, file.string());
}

Result<StepProfile> StepProfile::Parse(std::string_view json, std::string_view name) {
  ENGRAM_ASSIGN_OR_RETURN(const nlohmann::json document, ParseStrictJson(json, name));
  StepProfile profile;
  for (const auto& [key, text] :
       {std::pair{"name", &profile.name_}, std::pair{"source", &profile.source_}}) {
    if (!document.contains(key) || !document[key].is_string()) {
      return Bad(name, "name and source are texts: say where the times come from");
    }
    *text = document[key];
  }
  const auto layers = document.find("layers");
  if (layers == document.end() || !layers->is_number_unsigned() || *layers < 1u ||
      *layers > static_cast<unsigned>(kLayersMax)) {
    return Bad(name, "layers is a number from 1 to 10000");
  }
  profile.layers_ = *layers;
  const auto engram = document.find("engram_layers");
  if (engram == document.end() || !engram->is_array() || engram->empty()) {
    return Bad(name, "engram_layers is a list such as [1, 14]");
  }
  for (const nlohmann::json& layer : *engram) {
    if (!layer.is_number_unsigned() || layer >= static_cast<unsigned>(profile.layers_) ||
        (!profile.engram_layers_.empty() && layer <= profile.engram_layers_.back())) {
      return Bad(name, "engram_layers are ascending numbers below layers");
    }
    profile.engram_layers_.push_back(layer);
  }
  const auto times = document.find("layer_us");
  if (times == document.end() || !times->is_object() || times->empty()) {
    return Bad(name, "layer_us maps tokens of a step to microseconds of a layer: {\"1\": 250}");
  }
  for (const auto& [tokens, us] : times->items()) {
    uint32_t count = 0;
    const auto [end, error] = std::from_chars(tokens.data(), tokens.data() + tokens.size(), count);
    if (error != std::errc() || end != tokens.data() + tokens.size() || count == 0 || !IsTime(us)) {
      return Bad(name, "layer_us maps tokens of a step to microseconds of a layer: {\"1\": 250}");
    }
    profile.layer_us_.emplace_back(count, us.get<double>());
  }
  std::sort(profile.layer_us_.begin(), profile.layer_us_.end());
  const auto between = document.find("between_steps_us");
  if (between != document.end()) {
    if (!IsTime(*between)) return Bad(name, "between_steps_us is a time in microseconds");
    profile.between_steps_ = FromUs(between->get<double>());
  }
  return profile;
}

Duration StepProfile::LayerTime(uint32_t tokens) const {
  const auto above =
      std::lower_bound(layer_us_.begin(), layer_us_.end(), std::pair<uint32_t, double>(tokens, 0));
  if (above == layer_us_.begin()) return FromUs(above->second);
  const auto [tokens_below, us_below] = *std::prev(above);
  if (above == layer_us_.end()) return FromUs(us_below * tokens / tokens_below);
  const double part =
      static_cast<double>(tokens - tokens_below) / static_cast<double>(above->first - tokens_below);
  return FromUs(us_below + part * (above->second - us_below));
}

}  // namespace engram::bench
