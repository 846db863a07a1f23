// Ends a growing text at the first of some stop strings.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace engram {

// Holds back what may be the start of a stop string. Thread-compatible.
class StopText {
 public:
  // `stops` without empty strings; none = everything passes at once.
  explicit StopText(std::vector<std::string> stops);

  // The text that is safe to show after `piece` came; nothing more once stopped().
  [[nodiscard]] std::string Next(std::string_view piece);
  // What was held back, at the end of the text.
  [[nodiscard]] std::string Finish();
  // A stop string was found; it and what follows it is not shown.
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  size_t held_max_ = 0;  // the longest stop string less one
  std::string held_;
  bool stopped_ = false;
};

}  // namespace engram
