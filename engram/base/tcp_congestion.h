// How this host paces TCP, which decides how late rows may come.
#pragma once

#include <string>

namespace engram {

// What new TCP connections of this network namespace use ("cubic"); empty where it is not said.
[[nodiscard]] std::string TcpCongestionControl();

// Why rows over TCP come late here, and what to do; empty where nothing is wrong. BBR sends by a
// clock, at a rate that it remembers: after a pause, which each step of a model is, replies trickle
// (docs/decisions/0028-tcp-congestion-control.md).
[[nodiscard]] std::string TcpPacingWarning(const std::string& congestion_control);

}  // namespace engram
