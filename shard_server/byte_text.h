// Bytes, rates and times for log lines and error messages.
#pragma once

#include <cstdint>
#include <string>

namespace engram {

// "512 B", "1.5 KiB", "12.3 GiB".
[[nodiscard]] std::string ByteText(uint64_t bytes);

}  // namespace engram
