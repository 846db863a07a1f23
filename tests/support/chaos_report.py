"""What tests/chaos found, as JSON and for people."""
import collections
import time


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Moves:
    """Windows with moves only, and windows without anything."""

    def __init__(self):
        self.steady = []  # (began, ended)
        self.moving = []
        self.bytes_moved = 0
        self.bytes_minimum = 0
        self.fill_ratios = []  # of a join: time / (bytes / throttle)
        self.last = ""

    def add(self, kind, began, plan, copied_before, copied_after, copy_rate):
        ended = time.monotonic()
        self.moving.append((began, ended))
        moved = sum(after - copied_before.get(node, 0) for node, after in copied_after.items())
        minimum = sum(version["minimum_bytes"] for version in plan)
        self.bytes_moved += moved
        self.bytes_minimum += minimum
        self.last = f"{moved / 2**20:.0f} MiB in {ended - began:.1f} s, at least {minimum / 2**20:.0f} had to move"
        if kind == "join":
            self.fill_ratios.append((ended - began) / (moved / copy_rate))

    def text(self):
        return self.last


class Report:
    def __init__(self, options):
        self.options = options
        self.moves = Moves()
        self.faults = collections.Counter()
        self.stalls = {}
        self.found = {}

    def add_fault(self, kind, stall_ms):
        self.faults[kind] += 1
        self.stalls[kind] = max(self.stalls.get(kind, 0), stall_ms)

    def finish(self, readers, seconds):
        far = readers.far
        steady = [ms for window in self.moves.steady for ms in far.batches_between(*window)]
        moving = [ms for window in self.moves.moving for ms in far.batches_between(*window)]
        p99_steady, p99_moving = percentile(steady, 0.99), percentile(moving, 0.99)
        self.found = {
            "rows_verified": readers.rows_verified(),
            "rows_failed": readers.total("batches_failed") * self.options.tokens * 48,
            "rows_wrong": readers.total("rows_wrong"),
            "stall_ms_max": round(max(self.stalls.values(), default=0), 1),
            "p99_ratio": round(p99_moving / p99_steady, 3) if p99_steady else None,
            "bytes_moved_over_minimum": round(self.moves.bytes_moved / self.moves.bytes_minimum, 4)
            if self.moves.bytes_minimum else None,
            "faults": dict(self.faults),
            "stall_ms": {kind: round(ms, 1) for kind, ms in self.stalls.items()},
            "p99_steady_ms": round(p99_steady, 3),
            "p99_moving_ms": round(p99_moving, 3),
            "fill_time_ratio": [round(ratio, 3) for ratio in self.moves.fill_ratios],
            "changes_resume_s": [round(s, 2) for s in readers.cluster.resumed_s],
            "batches": readers.total("batches"),
            "batches_failed": readers.total("batches_failed"),
            "rows_rejected_by_crc": readers.total("crc_wrong"),
            "reads_retried": readers.total("retried"),
            "reads_hedged": readers.total("hedged"),
            "errors": [error for reader in readers.both for error in reader.errors][:50],
            "nodes": self.options.nodes,
            "replicas": self.options.replicas,
            "seed": self.options.seed,
            "seconds": round(seconds, 1),
        }

    def json(self):
        return self.found

    def good(self):
        return (self.found["rows_wrong"] == 0 and self.found["rows_failed"] == 0 and
                self.found["rows_verified"] > 0)

    def text(self):
        found = self.found
        lines = [f"rows verified {found['rows_verified']:,}, failed {found['rows_failed']}, wrong "
                 f"{found['rows_wrong']}; {found['reads_hedged']} reads hedged, {found['reads_retried']} retried",
                 f"p99 of a batch while slots move {found['p99_moving_ms']} ms, without {found['p99_steady_ms']} "
                 f"ms: ratio {found['p99_ratio']}",
                 f"bytes moved over the minimum: {found['bytes_moved_over_minimum']}; a new node's fill time over "
                 f"bytes / throttle: {found['fill_time_ratio']}",
                 f"after a leader's end changes went on within {max(found['changes_resume_s'], default=0)} s",
                 "fault                      times  longest batch"]
        for kind, times in sorted(found["faults"].items()):
            lines.append(f"{kind:25} {times:6}  {found['stall_ms'][kind]:10.1f} ms")
        lines += found["errors"][:10]
        return "\n".join(lines)
