#!/usr/bin/env python3
"""Runs bench/offload without a GPU, on a tiny model, with the real programs, and reads its report: every
row verified, the same tokens from memory nodes and in process. Times are not looked at.
usage: offload_test.py FOLDER_OF_PROGRAMS"""
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def offload(programs, out, *arguments):
    return subprocess.run(
        [ROOT / "bench/offload", "--backend", "cpu", "--programs", programs, "--shape", "tiny", "--rows",
         "100", "--sequences", "3", "--max-tokens", "4", "--pairs", "1", "--out", out, *arguments],
        capture_output=True, text=True, timeout=250)


def main():
    programs = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        out = pathlib.Path(scratch) / "out"
        refused = offload(programs, out, "--setting", "decode fast")
        assert refused.returncode == 2 and "not fast" in refused.stderr, refused
        assert not out.exists()

        # The second run's report has the first's too.
        for arguments in (["--setting", "decode", "--concurrency", "1 2"],
                          ["--setting", "v41", "--concurrency", "2", "--ways", "gather"]):
            ran = offload(programs, out, *arguments)
            assert ran.returncode == 0, ran.stdout + ran.stderr
        runs = json.loads((out / "offload.json").read_text(encoding="utf-8"))["runs"]
        assert [(run["setting"], run["way"], run["concurrency"]) for run in runs] == [
            ("decode", "gather over tcp", 1), ("decode", "gather over tcp", 2),
            ("decode", "mapped over shm", 1), ("decode", "mapped over shm", 2),
            ("v41", "gather over tcp", 2)], runs
        for run in runs:
            assert run["identical_tokens"] is True, run
            assert run["rows_verified"] > 0 and run["rows_wrong"] == run["rows_failed"] == 0, run
            assert set(run["layers"]) == {"1", "14"}, run
            assert set(run["sides"]) == {"remote", "in_process", "off"}, run
        page = (out / "offload.html").read_text(encoding="utf-8")
        for text in ("What do tables on memory nodes cost a model?", "decode, tiny-1MiB", "v41, tiny-1MiB"):
            assert text in page, text
        verified = int(sum(run["rows_verified"] for run in runs))
        print(f"{len(runs)} comparisons, {verified} rows verified, 0 wrong")


if __name__ == "__main__":
    main()
