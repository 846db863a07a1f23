// engramctl: the operator's command line.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "engram/base/privileges.h"
#include "tools/command.h"

int main(int argc, char** argv) {
  // It works on its user's files (certificates of other users too, where root makes them anew): the
  // rest of what its user may stays.
  if (const engram::Status status = engram::RefuseNewPrivileges(); !status.ok()) {
    std::fprintf(stderr, "engramctl: %s\n", status.ToString().c_str());
    return engram::kExitFailed;
  }
  try {
    return engram::RunEngramctl(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engramctl: INTERNAL: %s\n", error.what());
    return engram::kExitFailed;
  }
}
