#!/usr/bin/env python3
"""Fails on an include against DESIGN's arrows, a vendor header outside its folder, a file grown too
long, or a name that says nothing. Prints every offence with its fix."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# A folder may include from itself and from these.
ALLOWED = {
    "engram": set(),
    "client": {"engram"},
    "coordinator": {"engram"},
    "shard_server": {"engram"},
    "model_worker": {"engram", "client"},
    "tools": {"engram", "client"},
    "bench": {"engram", "client", "shard_server", "coordinator"},
    "python": {"engram", "client"},
}
# Headers of one library stay in one place.
ONLY_IN = {
    r"<uc[pst]/": "engram/transport/ucx/",
    r"<cuda|<cublas|<nccl": "model_worker/cuda/",
    r"<mpi": ("model_worker/collectives/", "bench/"),
    r"<(oneapi/dnnl|dnnl)": "model_worker/cpu/",
    r"<sqlite3": "coordinator/",
    r"<unicode/": "engram/tokenizer/",
    r"<(hiredis|libmemcached|grpcpp)/": "bench/",
}
LINES_MAX = {".h": 250, ".cuh": 250, ".cc": 600, ".cu": 600}
EMPTY_NAMES = re.compile(r"(^|_)(util|utils|helper|helpers|common|manager|misc)(_|\.|$)")


def tracked_files():
    out = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        capture_output=True, text=True, check=True).stdout
    return [pathlib.PurePosixPath(line) for line in out.splitlines()]


def main():
    offences = []
    checked = 0
    for path in tracked_files():
        if path.suffix not in LINES_MAX or not (ROOT / path).exists():
            continue
        checked += 1
        text = (ROOT / path).read_text(encoding="utf-8")
        top = path.parts[0]
        lines = text.count("\n")
        if lines > LINES_MAX[path.suffix]:
            offences.append(f"{path}: {lines} lines (at most {LINES_MAX[path.suffix]}): split it by topic")
        if EMPTY_NAMES.search(path.name):
            offences.append(f"{path}: name it after what it holds")
        if path.suffix in (".h", ".cuh") and "#pragma once" not in text and top != "tests":
            if not path.name == "engram_client.h":
                offences.append(f"{path}: needs #pragma once")
        for number, line in enumerate(text.splitlines(), 1):
            include = re.match(r'\s*#\s*include\s+([<"][^>"]+[>"])', line)
            if not include:
                continue
            name = include.group(1)
            if top != "tests":
                for pattern, home in ONLY_IN.items():
                    if re.match(pattern, name) and not str(path).startswith(home):
                        offences.append(f"{path}:{number}: {name} belongs in {home} only")
            target = name[1:].split("/")[0]
            if name[0] == '"' and top in ALLOWED and target in ALLOWED:
                if target != top and target not in ALLOWED[top]:
                    offences.append(f"{path}:{number}: {top}/ must not include {name}")
            if name[0] == '"' and name.startswith('"tests/') and top != "tests":
                offences.append(f"{path}:{number}: {top}/ must not include tests")
    for offence in offences:
        print(offence)
    print(f"{checked} files checked, {len(offences)} offences")
    return 1 if offences or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
