"""What happens to the release while the reader reads, step by step, and what must hold of each."""
import contextlib
import json
import subprocess
import threading
import time
import urllib.error

import cluster_reader
from cluster_release import NAMESPACE, WAIT_S, is_ready
from one_machine import Failed

MODELS = ("/models/v1", "/models/v2")
ROLL_S = 60  # of one memory pod: it ends, loads, and the cluster was whole for minReadySeconds


class Caller:
    """Asks the model workers for text through their service, one request after the other."""

    def __init__(self, release):
        self.release = release
        self.address = release.get("service", f"{release.full}-model-worker")["spec"]["clusterIP"]
        self.done = 0
        self.texts = set()
        self.errors = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call, daemon=True)
        release.context("worker")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)

    def _call(self):
        while not self._stop.wait(0.1):
            try:
                self.texts.add(self.release.completion(self.address))
                self.done += 1
            except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
                self.errors.append(repr(error))


class PodWatch:
    """Looks at the memory pods all the while: which are not there, not ready or ending, and how many at once at most."""

    def __init__(self, release):
        self.release = release
        self.most = 0
        self.example = []
        self.names = set()
        self.looks = 0
        self.errors = []
        self._wanted = {pod["metadata"]["name"] for pod in release.pods("memory")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)

    def _watch(self):
        while not self._stop.wait(0.2):
            try:
                found = self.release.get("pods", "--selector", "app.kubernetes.io/component=memory")["items"]
            except (Failed, subprocess.SubprocessError, ValueError) as error:
                self.errors.append(repr(error))
                continue
            there = {pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"] and is_ready(pod)}
            away = self._wanted - there
            self.looks += 1
            self.names |= away
            if len(away) > self.most:
                self.most, self.example = len(away), sorted(away)


class Run:
    """The steps with their times and what the reader had in each."""

    def __init__(self, machine, release, log):
        self.machine = machine
        self.release = release
        self.reader = cluster_reader.Reader(machine, NAMESPACE)
        self.log = log
        self.rows = []  # of the report
        self.reading = False
        self.problems = []
        self.answers = None

    @contextlib.contextmanager
    def step(self, name):
        self.log(name)
        began = time.monotonic()
        notes = []
        try:
            yield notes
        except Failed as failed:
            tally = self.reader.tally(began)
            raise Failed(f"{name}: {failed} (meanwhile {tally.rows_verified:,} rows verified, {tally.rows_wrong} wrong, "
                         f"{tally.batches_failed} batches failed {tally.errors[:3]})") from failed
        if self.reading:
            time.sleep(0.3)  # the reader's last lines of it
            self.reader.check()
        ended = time.monotonic()
        tally = self.reader.tally(began, ended)
        epoch = ""
        with contextlib.suppress(Failed, StopIteration):
            current = self.release.current()
            epoch = f"{current['version']}: {current['epoch']}"
        self.rows.append({"step": name, "seconds": ended - began, "rows": tally.rows_verified, "wrong": tally.rows_wrong,
                          "failed": tally.batches_failed, "longest_ms": tally.longest_ms, "epoch": epoch,
                          "notes": "; ".join(notes), "reading": self.reading})
        self.log(f"  {ended - began:.1f} s; {tally.rows_verified:,} rows verified, {tally.rows_wrong} wrong, {tally.batches_failed} "
                 f"batches failed, longest batch {tally.longest_ms:.0f} ms; version: epoch {epoch}; {'; '.join(notes)}")
        if not tally.good:
            self.problems.append(f"{name}: {tally.rows_wrong} rows wrong, {tally.batches_failed} batches failed: {tally.errors[:3]}")

    def require(self, condition, text):
        if not condition:
            raise Failed(text)

    # ---- Steps ----

    def install(self, nodes):
        release = self.release
        with self.step("helm install") as notes:
            release.install()
            release.rollout(f"statefulset/{release.full}-coordinator")
            release.memory_rollout()
            release.await_settled(nodes)
            secrets = [s["metadata"]["name"] for s in release.get("secrets")["items"] if s["type"] == "kubernetes.io/tls" or
                       s["metadata"]["name"].startswith(release.full)]
            self.require(f"{release.full}-ca" in secrets, f"no certificates: {secrets}")
            notes.append(f"{release.current()['slot_count']} slots, {release.current()['total_bytes'] >> 20} MiB on {nodes} memory "
                         f"nodes; {len(secrets)} Secrets made by the Job")

    def helm_test(self):
        with self.step("helm test") as notes:
            said = self.release.helm("test", self.release.name, "--logs")
            line = next((line for line in said.splitlines() if " rows verified" in line and " 0 wrong, 0 could not be had" in line), None)
            self.require(line is not None, f"helm test says:\n{said}")
            notes.append(line.strip())

    def start_reader(self, models=MODELS):
        with self.step("the reader starts"):
            self.reader.start(cluster_reader.manifest(self.release, NAMESPACE, models))
            self.reading = True

    def workers(self, count):
        """So many, each of which answers, all alike."""
        release = self.release
        release.rollout(f"deployment/{release.full}-model-worker")
        pods = release.pods("model-worker")
        self.require(len(pods) == count, f"{len(pods)} model workers, {count} wanted")
        answers = {release.completion(pod["status"]["podIP"]) for pod in pods}
        self.require(len(answers) == 1, f"model workers answer {answers}")
        for pod in pods:
            metrics = release.metrics(pod, 8080)
            verified = metrics["engram_client_rows_verified_total"]
            bad = {name: metrics[name] for name in ("engram_client_rows_failed_total", "engram_client_rows_corrupt_total",
                                                    "engram_worker_steps_without_rows_total") if metrics.get(name)}
            self.require(verified > 0 and not bad, f"{pod['metadata']['name']}: {verified} rows verified, {bad}")
        return answers.pop()

    def scale_out(self, old, new):
        release = self.release
        with self.step(f"memory nodes {old} -> {new}") as notes:
            before = {node["id"] for node in release.status()["nodes"]}
            release.upgrade(values={"memoryNodes.replicas": new})
            release.memory_rollout()
            release.await_settled(new)
            moved = [node for node in release.status()["nodes"] if node["id"] not in before]
            self.require(len(moved) == new - old, f"new nodes: {moved}")
            notes.append(", ".join(f"{node['id'].rsplit('-', 1)[1]}: {node['assigned_slots']} slots" for node in moved) + " moved there")

    def scale_in(self, old, new):
        release = self.release
        with self.step(f"memory nodes {old} -> {new}") as notes:
            release.upgrade(values={"memoryNodes.replicas": new})
            said = release.job_log("scale-in")
            self.require("hold nothing any more" in said, f"the pre-upgrade Job said: {said}")
            release.await_true(lambda: "" if len(release.pods("memory")) == new else "pods are still there")
            release.await_settled(new)
            forgot = release.job_log("forget-nodes")
            self.require("forgotten" in forgot, f"the post-upgrade Job said: {forgot}")
            notes.append(next(line for line in said.splitlines() if "hold nothing any more" in line))

    def refuse_scale_in(self, nodes):
        """Fewer than the tables fit on: refused, nothing changed."""
        release = self.release
        with self.step(f"memory nodes {nodes} -> 2, which would not hold both versions: refused") as notes:
            before = release.current()["epoch"]
            try:
                release.upgrade(values={"memoryNodes.replicas": 2})
            except Failed as failed:
                self.require("scale-in" in str(failed), str(failed))
            else:
                raise Failed("helm upgrade drained what does not fit")
            release.values["memoryNodes.replicas"] = nodes
            said = release.job_log("scale-in")
            release.await_settled(nodes)
            self.require(len(release.pods("memory")) == nodes and release.current()["epoch"] == before, "something shrank")
            notes.append(said.strip().splitlines()[-1].removeprefix("engramctl: "))
            release.upgrade()

    def delete_pod(self, nodes):
        release = self.release
        with self.step("one memory node's pod is deleted") as notes:
            name = f"{release.full}-memory-1"
            before = release.get("pod", name)["metadata"]["uid"]
            incarnation = self._node(name)["incarnation"]
            release.kubectl("delete", "pod", name, "--wait=false")
            release.await_true(lambda: "" if release.get("pod", name)["metadata"]["uid"] != before else f"{name} is there still")
            release.memory_rollout()
            release.await_true(lambda: "" if self._node(name)["incarnation"] != incarnation else f"{name} is not known anew")
            release.await_settled(nodes)
            notes.append("it came back under its name and loaded its slots again; it was not drained")

    def _node(self, name):
        return next(node for node in self.release.status()["nodes"] if node["id"] == name)

    def _incarnations(self):
        return {node["id"]: node["incarnation"] for node in self.release.status()["nodes"]}

    def roll(self, name, nodes, **changed):
        """An upgrade that replaces every pod."""
        release = self.release
        with self.step(name) as notes:
            before = self._incarnations()
            pods = {pod["metadata"]["uid"] for pod in release.get("pods")["items"]}
            with PodWatch(release) as watch:
                release.upgrade(**changed)
                for what in ("statefulset/{}-coordinator", "deployment/{}-operator", "deployment/{}-model-worker"):
                    release.rollout(what.format(release.full))
                release.memory_rollout(WAIT_S + ROLL_S * nodes)
            # A busy API server may miss a question; not so many that a second pod could be away unseen.
            self.require(len(watch.errors) * 10 < watch.looks, f"pods could not be watched: {len(watch.errors)} of {watch.looks}: {watch.errors[:3]}")
            self.require(watch.names == set(before), f"memory pods seen away: {sorted(watch.names)}")
            self.require(watch.most == 1, f"{watch.most} memory pods were away at once: {watch.example}")
            release.await_true(lambda: "" if all(before[node] != incarnation for node, incarnation in self._incarnations().items())
                               else "memory nodes of before are still known")
            release.await_settled(nodes)
            left = [pod["metadata"]["name"] for component in ("coordinator", "memory", "model-worker", "operator")
                    for pod in release.pods(component) if pod["metadata"]["uid"] in pods]
            self.require(not left, f"not replaced: {left}")
            images = {pod["spec"]["containers"][0]["image"] for component in ("coordinator", "memory", "model-worker")
                      for pod in release.pods(component)}
            rolled = release.job_name("roll")
            release.kubectl("wait", f"job/{rolled}", "--for=condition=Complete", f"--timeout={WAIT_S}s", timeout=WAIT_S + 30)
            notes.append(f"every pod replaced; of memory pods never more than {watch.most} not ready or gone at once ({watch.looks} looks); images {', '.join(sorted(images))}")

    def make_version(self, nodes):
        release = self.release
        with self.step("a new table version is made, beside the first") as notes:
            said = release.ctl("create-version", "--model", MODELS[1], "--not-current", "--replicas", "2", "--wait")
            notes.append(said.strip().splitlines()[-1])
            release.await_settled(nodes)

    def switch(self, nodes):
        release = self.release
        with self.step("the new version is switched to") as notes:
            notes.append(release.ctl("switch", "2").strip())
            end = time.monotonic() + 60
            while not (self.reader.lines and self.reader.lines[-1]["batches_of"][1] and not self.reader.lines[-1]["batches_of"][0]):
                self.reader.check()
                self.require(time.monotonic() < end, "the reader does not follow to version 2")
                time.sleep(0.2)
            counts = self.reader.tally().batches_of
            notes.append(f"{counts[0]} batches were of version 1 and {counts[1]} of version 2, each whole")
        with self.step("model workers are given the new checkpoint, the first version is dropped") as notes:
            release.upgrade(values={"model.path": MODELS[1]})
            self.answers = self.workers(1)
            notes.append(release.ctl("drop-version", "1").strip())
            release.await_true(lambda: "" if [v["version"] for v in release.status()["versions"]] == [2] else "version 1 is there still")
            release.await_settled(nodes)

    def scale_workers(self):
        release = self.release
        epoch = release.current()["epoch"]
        answer = self.answers
        with self.step("model workers 1 -> 4 -> 1") as notes, Caller(release) as caller:
            for count in (4, 1):
                release.upgrade(values={"modelWorkers.replicas": count})
                release.await_true(lambda count=count: "" if len(release.pods("model-worker")) == count else "pods come or go")
                self.require(self.workers(count) == answer, "workers answer differently than before")
                notes.append(f"{count} answer alike")
            time.sleep(3)
            current = release.current()
            self.require(current["epoch"] == epoch, f"the epoch was {epoch} and is {current['epoch']}")
            notes.append(f"epoch {epoch} before and after")
            notes.append(f"{caller.done} requests through the service meanwhile, {len(caller.errors)} not answered")
        self.require(caller.done > 0 and caller.texts == {answer}, f"through the service: {caller.texts}, {caller.errors[:3]}")
        if caller.errors:
            self.problems.append(f"model workers 1 -> 4 -> 1: {len(caller.errors)} requests not answered: {caller.errors[:3]}")

    def benchmark(self, folder):
        """The benchmark's Job beside the reader; its report is in the claim, which is `folder` here."""
        release = self.release
        values = {"bench.enabled": "true", "bench.claimName": "reports", "bench.resources.requests.cpu": "50m",
                  "bench.resources.requests.memory": "256Mi", "bench.resources.limits.memory": "1Gi",
                  "bench.args": "{--profile=v41-like,--decode=1,--no-prefill,--seconds=3}"}
        with self.step("the benchmark's Job") as notes:
            release.upgrade(values=values)
            job = release.job_name("bench")
            release.kubectl("wait", f"job/{job}", "--for=condition=Complete", "--timeout=120s")
            table = release.kubectl("logs", f"job/{job}").strip()
            kept = f"prefetch-{job.rsplit('-', 1)[1]}.json"
            report = json.loads((folder / kept).read_text())
            self.require(report and table, f"{report} {table}")
            notes.append(f"its report is kept as {kept}")
            release.upgrade(values=dict.fromkeys(values))
        return table, report

    def stop_reader(self):
        self.reader.stop()
        self.reading = False

    def uninstall(self):
        release = self.release
        with self.step("helm uninstall") as notes:
            release.helm("uninstall", release.name, "--wait")
            left = [m for m in release.get("all")["items"] if "deletionTimestamp" not in m["metadata"]]
            names = [f"{m['kind']} {m['metadata']['name'].removeprefix(release.full + '-')}" for m in left
                     if "ownerReferences" not in m["metadata"]]
            secrets = [s["metadata"]["name"] for s in release.get("secrets", "--field-selector", "type!=helm.sh/release.v1")["items"]]
            claims = [c["metadata"]["name"] for c in release.get("pvc", "--selector", "app.kubernetes.io/name=engram-pool")["items"]]
            notes.append(f"left, for a day: {', '.join(names)}; for you to delete: {len(secrets)} Secrets, claims {', '.join(claims)}")
            running = [m for m in left if m["kind"] != "Job" and m.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
            self.require(not running, f"left running: {names}")
