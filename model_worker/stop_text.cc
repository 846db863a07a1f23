#include "model_worker/stop_text.h"

#include <algorithm>
#include <utility>

namespace engram {

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) held_max_ = std::max(held_max_, stop.size() - 1);
}

std::string StopText::Next(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  // The longest tail that starts a stop string.
  size_t keep = std::min(held_max_, held_.size());
  while (keep > 0 && std::none_of(stops_.begin(), stops_.end(), [&](const std::string& stop) {
           return stop.size() > keep && stop.compare(0, keep, held_, held_.size() - keep) == 0;
         })) {
    --keep;
  }
  std::string shown = held_.substr(0, held_.size() - keep);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopText::Finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }

}  // namespace engram
