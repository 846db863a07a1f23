// What every process tells of itself, under the names that Prometheus' own clients use.
#pragma once

#include "engram/metrics/family_writer.h"

namespace engram {

// process_cpu_seconds_total, process_resident_memory_bytes, process_virtual_memory_bytes,
// process_open_fds, process_max_fds, process_start_time_seconds. What the kernel does not tell is
// left out. Thread-safe.
void WriteProcessMetrics(FamilyWriter* out);

}  // namespace engram
