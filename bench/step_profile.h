// How long a model's layers take: what a prefetch has to hide behind.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram::bench {

// docs/formats/step_profile.md. Immutable.
class StepProfile {
 public:
  // The name of a profile that is shipped, or else a file.
  // ERRORS: kNotFound naming those that are shipped, kIo, kMalformed naming the field.
  [[nodiscard]] static Result<StepProfile> Find(const std::string& name_or_file);
  [[nodiscard]] static Result<StepProfile> Read(const std::filesystem::path& file);
  [[nodiscard]] static Result<StepProfile> Parse(std::string_view json, std::string_view name);

  [[nodiscard]] const std::string& name() const { return name_; }
  // Where its times come from, in words.
  [[nodiscard]] const std::string& source() const { return source_; }
  [[nodiscard]] int32_t layers() const { return layers_; }
  // Before which layers rows are consumed, in the order of the tables' layers.
  [[nodiscard]] const std::vector<int32_t>& engram_layers() const { return engram_layers_; }
  // Of one layer in a step of so many tokens: between the sizes that the profile gives along a
  // straight line, beyond the largest in proportion, below the smallest the same.
  [[nodiscard]] Duration LayerTime(uint32_t tokens) const;
  // From a step's last layer to the next one's first: the head, sampling, the scheduler.
  [[nodiscard]] Duration between_steps() const { return between_steps_; }

 private:
  std::string name_;
  std::string source_;
  int32_t layers_ = 0;
  std::vector<int32_t> engram_layers_;
  std::vector<std::pair<uint32_t, double>> layer_us_;  // by tokens, ascending
  Duration between_steps_{};
};

// Name and text of every profile in bench/profiles/.
[[nodiscard]] const std::vector<std::pair<std::string_view, std::string_view>>& ShippedProfiles();

}  // namespace engram::bench
