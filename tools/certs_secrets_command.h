// engramctl certs secrets: a cluster's certificates as Kubernetes Secrets.
#pragma once

#include "tools/command.h"

namespace engram {

// Adds it below "certs". `line` outlives `certs`.
void AddCertsSecretsCommand(CLI::App& certs, CommandLine& line);

}  // namespace engram
