// What this host computes with, for reports.
#pragma once

#include <string>

namespace engram {

// "AMD EPYC 9V74" as Linux tells it; "unknown" where it does not.
[[nodiscard]] std::string CpuModel();

}  // namespace engram
