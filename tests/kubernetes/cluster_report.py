"""The report of a run on the one-machine cluster, as Markdown."""
import datetime
import platform
import subprocess

from go_programs import ADAPTER_VERSION, COREDNS_VERSION, HELM_VERSION, KUBE_ROUTER_VERSION, ROOT


def first_line(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip().splitlines()[0]


def revision(folder=ROOT):
    text = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True)
    return text + (" and changes" if changed.stdout.strip() else "")


def table(rows):
    lines = ["| step | seconds | rows verified | wrong | batches failed | longest batch | version: epoch after | |",
             "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        read = (f"{row['rows']:,} | {row['wrong']} | {row['failed']} | {row['longest_ms']:.0f} ms" if row["reading"] or row["rows"]
                else " | | | ")
        lines.append(f"| {row['step']} | {row['seconds']:.1f} | {read} | {row['epoch']} | {row['notes']} |")
    return "\n".join(lines)


def text(title, commit, run, tally, machine_version, ready_s, total_s, reader):
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"""## {title}
{now:%Y-%m-%d %H:%M} UTC, commit {commit}. {"Passed" if not run.problems else "FAILED"} in {total_s:.0f} s.

- Kubernetes {machine_version}, one node (ready {ready_s:.1f} s after its first process), kernel {platform.release()}, containerd
  {first_line("containerd", "--version").split()[2]}, {first_line("runc", "--version")}, {first_line("etcd", "--version")}, CoreDNS {COREDNS_VERSION}, kube-router
  {KUBE_ROUTER_VERSION}, prometheus-adapter {ADAPTER_VERSION}, Helm {HELM_VERSION}.
- {reader}
- **{tally.rows_verified:,} rows verified in {tally.batches:,} batches, {tally.rows_wrong} wrong, {tally.batches_failed} batches failed**, {tally.crc_wrong} with a wrong CRC on the way; the longest
  batch took {tally.longest_ms:.0f} ms (deadline 2,000 ms).

{table(run.rows)}
""" + "".join(f"\n- PROBLEM: {problem}" for problem in run.problems)
