#include "engram/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace engram {

void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s (a bug in this program: please report it)\n", file,
               line, condition);
  std::abort();
}

}  // namespace engram
