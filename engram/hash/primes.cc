#include "engram/hash/primes.h"

#include <initializer_list>
#include <limits>

namespace engram {
namespace {

uint64_t PowerModulo(uint64_t base, uint32_t exponent, uint32_t modulus) {
  uint64_t result = 1;
  base %= modulus;
  for (; exponent != 0; exponent >>= 1) {
    if (exponent & 1) result = result * base % modulus;
    base = base * base % modulus;
  }
  return result;
}

// Miller-Rabin for one witness; `number` is odd and > witness.
bool PassesWitness(uint32_t number, uint32_t witness) {
  const int twos = __builtin_ctz(number - 1);
  uint64_t x = PowerModulo(witness, (number - 1) >> twos, number);
  if (x == 1 || x == number - 1) return true;
  for (int i = 1; i < twos; ++i) {
    x = x * x % number;
    if (x == number - 1) return true;
  }
  return false;
}

}  // namespace

bool IsPrime(uint32_t number) {
  if (number < 2) return false;
  for (const uint32_t small : {2u, 3u, 5u, 7u, 11u, 13u, 17u, 19u, 23u, 61u}) {
    if (number == small) return true;
    if (number % small == 0) return false;
  }
  // The witnesses 2, 7 and 61 leave no liar below 4,759,123,141 (Jaeschke 1993), which is > 2^32.
  return PassesWitness(number, 2) && PassesWitness(number, 7) && PassesWitness(number, 61);
}

uint32_t NextPrime(uint32_t after) {
  for (uint32_t candidate = after; candidate != std::numeric_limits<uint32_t>::max();) {
    ++candidate;
    if (IsPrime(candidate)) return candidate;
  }
  return 0;
}

}  // namespace engram
