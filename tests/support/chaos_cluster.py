"""The cluster of tests/chaos: coordinators with an etcd member each, memory nodes and readers, every
one on a host of its own."""
import collections
import json
import pathlib
import signal
import subprocess
import threading
import time
import urllib.request

from hosts import Host

ROOT = pathlib.Path(__file__).resolve().parents[2]
COORDINATORS = 3
SETTLE_S = 120
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Failed(Exception):
    """What should have happened did not."""


def to_bytes(text):
    return int(float(text[:-3]) * UNITS[text[-3:]])


def await_true(what, holds, seconds=SETTLE_S):
    until = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > until:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def http(url, timeout=2):
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:
            return reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


class Program:
    """One program on one host, which can be killed, stopped and started again."""

    def __init__(self, host, argv, log):
        self.host = host
        self.argv = [str(part) for part in argv]
        self.log = log
        self.process = None

    def start(self):
        self.process = self.host.start(self.argv, self.log)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        if how in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(timeout=60)

    def start_if_ended(self):
        if not self.running():
            self.start()


class MemoryNode(Program):
    def __init__(self, cluster, name, transport):
        host = Host(name, cluster.folder)
        self.cluster = cluster
        self.name = name
        self.zone = "z-" + name
        self.memory_bytes = 8 << 30
        self.ended = 0  # the incarnation that was killed last
        super().__init__(host, [
            cluster.bin / "engram-shard-server", "--insecure", "--id", name, "--zone", self.zone,
            "--coordinator", cluster.addresses, "--listen", host.address + ":7100",
            "--http", host.address + ":7101", "--memory", "8GiB", "--transport", transport], "node.log")

    def kill(self, how=signal.SIGKILL):
        if how == signal.SIGKILL:
            self.ended = self.cluster.node(self.name).get("incarnation", 0)
        super().kill(how)

    def leave(self):
        """Once it is drained."""
        self.kill(signal.SIGTERM)
        await_true(f"{self.name} is down", lambda: not self.cluster.node(self.name)["up"])
        self.cluster.ctl("remove-node", self.name)


class Cluster:
    def __init__(self, programs, folder, options, log):
        self.bin = programs
        self.folder = folder
        self.options = options
        self.log = log
        self.copy_rate = to_bytes(options.copy_rate)
        self.models = [folder / "model-a", folder / "model-b"][:1 if options.moves_only else 2]
        self.model_of = {}  # version: index into models
        heads = [Host(f"c{i}", folder, 256 << 20) for i in range(COORDINATORS)]
        self.addresses = ",".join(f"{host.address}:7000" for host in heads)
        peers = ",".join(f"{host.name}=http://{host.address}:2380" for host in heads)
        store = "etcd://" + ",".join(f"{host.address}:2379" for host in heads) + "/chaos"
        self.etcd = [Program(host, [
            "etcd", "--name", host.name, "--data-dir", host.folder / "etcd",
            "--listen-client-urls", f"http://{host.address}:2379",
            "--advertise-client-urls", f"http://{host.address}:2379",
            "--listen-peer-urls", f"http://{host.address}:2380",
            "--initial-advertise-peer-urls", f"http://{host.address}:2380",
            "--initial-cluster", peers, "--pre-vote", "--log-level", "warn"], "etcd.log") for host in heads]
        self.coordinators = [Program(host, [
            programs / "engram-coordinator", "--insecure", "--listen", f"{host.address}:7000",
            "--http", f"{host.address}:7001", "--store", store, "--copy-rate", options.copy_rate,
            "--heartbeat-ms", "250", "--down-after-ms", "1000", "--lost-after-ms", "4000"],
            "coordinator.log") for host in heads]
        # A reader is on the first node's host, and reads that one's rows from its memory.
        self.nodes = [MemoryNode(self, f"m{i}", "auto" if i == 0 else "tcp")
                      for i in range(options.nodes)]
        self.spares = []
        self.resumed_s = []  # after a leader's end: how long no change was taken

    def start(self):
        for index, model in enumerate(self.models):
            self.log(f"making {model.name}")
            subprocess.run([self.bin / "engramctl", "make-model", "--tables-only", "--out", model,
                            "--tokenizer", ROOT / "tests/data/tiny_tokenizer.json", "--base-rows",
                            str(self.options.base_rows), "--seed", str(index + 1)],
                           check=True, capture_output=True, text=True)
        self.log(f"starting {COORDINATORS} coordinators with etcd, {len(self.nodes)} memory nodes")
        for program in self.etcd + self.coordinators + self.nodes:
            program.start()
        await_true("every memory node is up", lambda: sum(
            node["up"] for node in (self.status() or {"nodes": []})["nodes"]) == len(self.nodes))
        self.ctl("create-version", "--model", self.models[0], "--replicas", self.options.replicas, "--wait")
        self.model_of = {1: 0}

    def ctl(self, *arguments, host=None, coordinator=None):
        """What engramctl prints; on `host` where it reads rows; of one coordinator, else of any."""
        asked = f"{coordinator.host.address}:7000" if coordinator else self.addresses
        command = [str(part) for part in (self.bin / "engramctl", *arguments, "--insecure", "--coordinator", asked)]
        return subprocess.run(host.command(command) if host else command, check=True,
                              capture_output=True, text=True, timeout=SETTLE_S).stdout

    def seconds_until_a_change(self):
        """A node is drained and, before much has moved, no longer."""
        began = time.monotonic()

        def changed():
            leader = self.leader(timeout=0.2)  # one that hangs is not waited for
            if leader is None:
                return None
            try:
                for change in ("drain", "undrain"):
                    self.ctl(change, self.nodes[0].name, "--timeout-s", "5", coordinator=leader)
            except subprocess.CalledProcessError:
                return None
            return time.monotonic() - began
        return await_true("a change is taken", changed)

    def leader(self, timeout=2):
        """The coordinator that says it leads, or None."""
        for coordinator in self.coordinators:
            said = http(f"http://{coordinator.host.address}:7001/readyz", timeout)
            if '"leader"' in said.split(":", 1)[-1][:10]:
                return coordinator
        return None

    def status(self):
        """Null while nobody leads."""
        try:
            status = json.loads(self.ctl("status", "--json", "--timeout-s", "5"))
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None
        return None if status.get("follower") else status

    def node(self, name):
        status = await_true("a coordinator leads", self.status)
        return next((node for node in status["nodes"] if node["id"] == name), {"up": False})

    def plan(self, *what_if):
        return [version for version in json.loads(self.ctl("plan", "--json", *what_if))["versions"]]

    def settled(self, moved_to=None):
        status = self.status()
        # A node that started again counts once it has loaded what it owns: until then the other
        # replica is the only one. One that came back before it was missed is still told of as it was.
        ended = {node.ended for node in self.nodes + self.spares}
        if status is None or any(not node["up"] or node["ready_slots"] < node["assigned_slots"] or
                                 node["incarnation"] in ended for node in status["nodes"]):
            return False
        if moved_to is not None and not any(
                node["id"] == moved_to.name and node["assigned_slots"] > 0 for node in status["nodes"]):
            return False
        return all(version["moves_pending"] == 0 and version["replicas_missing"] == 0 and
                   version["ready_slots"] == version["slot_count"] for version in status["versions"])

    def await_settled(self, moved_to=None):
        await_true("every node is up and every replica in its place", lambda: self.settled(moved_to))

    def spare(self):
        """A memory node that nobody knew before, not started."""
        self.spares.append(MemoryNode(self, f"s{len(self.spares) + 1}", "tcp"))
        return self.spares[-1]

    def copied_bytes(self):
        """Of every memory node there is, by its id. They must not be started again in between."""
        copied = {}
        for node in await_true("a coordinator leads", self.status)["nodes"]:
            metrics = http("http://" + node["address"].rsplit(":", 1)[0] + ":7101/metrics")
            copied[node["id"]] = sum(float(line.split()[-1]) for line in metrics.splitlines()
                                     if line.startswith("engram_node_copied_bytes_total"))
        return copied

    def current_version(self):
        status = await_true("a coordinator leads", self.status)
        return next(version["version"] for version in status["versions"] if version["current"])

    def verify_all(self, host):
        model = self.models[self.model_of[self.current_version()]]
        self.ctl("verify", "--model", model, "--all", host=host)


class Reader:
    """An engram-verifying-reader and what its lines said."""

    def __init__(self, cluster, host, options, *more):
        self.name = host.name
        self.lines = collections.deque()
        self.totals = collections.Counter()
        self.errors = []
        self.lock = threading.Lock()
        self.process = host.start([
            str(part) for part in (cluster.bin / "engram-verifying-reader", "--insecure", "--coordinator",
                                   cluster.addresses, "--model", *cluster.models, "--tokens",
                                   options.tokens, "--seed", options.seed, *more)],
            f"reader-{host.name}.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._take_lines, daemon=True)
        self.thread.start()
        await_true(f"the reader on {host.name} reads", lambda: self.rows_verified() > 0, 60)

    def _take_lines(self):
        for text in self.process.stdout:
            if not text.startswith("{"):  # UCX's own messages go to standard output
                print(f"the reader on {self.name} says: {text.strip()}", flush=True)
                continue
            line = json.loads(text)
            with self.lock:
                self.lines.append((line["t"], line["batch_ms"]))
                for key in ("rows_verified", "rows_wrong", "batches", "batches_failed"):
                    self.totals[key] += line[key]
                for key in ("crc_wrong", "retried", "hedged"):
                    self.totals[key] = line[key]
                self.errors += [f"at {line['t']:.1f} s: {error}" for error in line["errors"]]

    def order(self, batches_per_s):
        try:
            self.process.stdin.write(f"{batches_per_s}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"a reader ended with {self.process.wait()}: --keep shows its log") from None

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.thread.join()
        if self.process.returncode != 0:
            raise Failed(f"a reader ended with {self.process.returncode}")

    def rows_verified(self):
        if self.process.poll() not in (None, 0):
            raise Failed(f"a reader ended with {self.process.returncode}")
        with self.lock:
            return self.totals["rows_verified"]

    def batches_between(self, began, ended):
        """Milliseconds of every batch that ended then, give or take a tenth of a second."""
        with self.lock:
            return [ms for t, batches in self.lines if began <= t <= ended + 0.1 for ms in batches]

    def window_of(self, seconds):
        began = time.monotonic()
        time.sleep(seconds)
        return began, time.monotonic()

    def rate_over(self, seconds):
        return len(self.batches_between(*self.window_of(seconds))) / seconds


class Readers:
    def __init__(self, cluster, options):
        self.cluster = cluster
        self.host = Host("far", cluster.folder)
        self.far = Reader(cluster, self.host, options, "--way", "gather")
        # On a node's host: that node's rows are read from its memory.
        first = cluster.nodes[0]
        self.near = Reader(cluster, first.host, options, "--transport", "auto", "--way", "auto", "--zone",
                           first.zone)
        self.near.order(20)
        self.both = (self.far, self.near)

    def stop(self):
        for reader in self.both:
            reader.stop()

    def rows_verified(self):
        return sum(reader.rows_verified() for reader in self.both)

    def total(self, key):
        return sum(reader.totals[key] for reader in self.both)

    def longest_ms(self, began, ended):
        return max((ms for reader in self.both for ms in reader.batches_between(began, ended)), default=0)

    def text(self):
        return (f"{self.rows_verified():,} rows verified, {self.total('rows_wrong')} wrong, "
                f"{self.total('batches_failed')} batches failed")
