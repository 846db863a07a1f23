// engramctl: the operator's command line.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "tools/command.h"

int main(int argc, char** argv) {
  try {
    return engram::RunEngramctl(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engramctl: INTERNAL: %s\n", error.what());
    return engram::kExitFailed;
  }
}
