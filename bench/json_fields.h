// Members of a JSON object that may be anything.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"

namespace engram::bench {

[[nodiscard]] inline tl::unexpected<Status> Malformed(std::string message) {
  return Error(StatusCode::kMalformed, std::move(message));
}

// A text. `otherwise` where the object has no such member; nullopt: it must have one.
// Precondition: object.is_object().
[[nodiscard]] inline Result<std::string> ReadText(const nlohmann::json& object, const char* key,
                                                  std::optional<std::string> otherwise) {
  if (!object.contains(key)) {
    if (otherwise.has_value()) return *std::move(otherwise);
    return Malformed(std::string(key) + " is missing");
  }
  if (!object.at(key).is_string()) return Malformed(std::string(key) + " is not a text");
  return object.at(key).get<std::string>();
}

// A number; NaN for null. Numbers beyond any figure would break the arithmetic of axes: what is too
// large is refused, what is next to nothing is zero.
[[nodiscard]] inline Result<double> ReadNumber(const nlohmann::json& json) {
  if (json.is_null()) return std::numeric_limits<double>::quiet_NaN();
  if (!json.is_number()) return Malformed("has something else where a number belongs");
  const auto value = json.get<double>();
  if (!(value >= -1e30 && value <= 1e30)) return Malformed("has a number beyond 1e30");
  return std::abs(value) < 1e-30 ? 0.0 : value;
}

// Calls read(item), which gives a Status, for each item of the array `key`; without that member for
// none. An error is said to be of "key[i]".
template <typename Read>
[[nodiscard]] Status ReadEach(const nlohmann::json& object, const char* key, size_t items_max,
                              const Read& read) {
  if (!object.contains(key)) return {};
  const nlohmann::json& array = object.at(key);
  if (!array.is_array()) return {StatusCode::kMalformed, std::string(key) + " is not an array"};
  if (array.size() > items_max) {
    return {StatusCode::kResourceExhausted, std::string(key) + " has " +
                                                std::to_string(array.size()) + " items; at most " +
                                                std::to_string(items_max)};
  }
  for (size_t i = 0; i < array.size(); ++i) {
    if (const Status status = read(array[i]); !status.ok()) {
      return status.WithContext(std::string(key) + "[" + std::to_string(i) + "]");
    }
  }
  return {};
}

}  // namespace engram::bench
