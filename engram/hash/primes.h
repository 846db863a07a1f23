// Primes below 2^32, exactly.
#pragma once

#include <cstdint>

namespace engram {

// Exact for every 32-bit number.
[[nodiscard]] bool IsPrime(uint32_t number);

// The smallest prime > `after`, or 0 if there is none below 2^32.
[[nodiscard]] uint32_t NextPrime(uint32_t after);

}  // namespace engram
