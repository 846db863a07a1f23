"""A release of the chart on the one-machine cluster, as its operator handles it: helm, kubectl, engramctl."""
import base64
import contextlib
import json
import pathlib
import re
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from one_machine import NODE, Failed

NAMESPACE = "engram"
STORAGE = "local"
WAIT_S = 240


def volume(name, mode, size, **more):
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": [mode], "storageClassName": STORAGE,
                     "persistentVolumeReclaimPolicy": "Retain",
                     "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                         {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}]}}, **more}}


def local_volume(folder, name, mode="ReadWriteOnce", size="1Gi"):
    """A folder of this machine; local, not a hostPath: it is given to the pod's group."""
    (folder / name).mkdir()
    return volume(name, mode, size, local={"path": str(folder / name)})


def namespace_manifests(folder, models):
    """A namespace that refuses pods above the restricted level, and the disks of this machine: the checkpoints, the state."""
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {
            "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}}},
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
         "metadata": {"name": STORAGE, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
         "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"},
        volume("models", "ReadOnlyMany", "4Gi", hostPath={"path": str(models)}, claimRef={"namespace": NAMESPACE, "name": "models"}),
        local_volume(folder, "state"),
        local_volume(folder, "reports"),
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models", "namespace": NAMESPACE},
         "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "4Gi"}}}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "reports", "namespace": NAMESPACE},
         "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "reports", "resources": {"requests": {"storage": "1Gi"}}}},
    ]


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


class Release:
    """chart: its folder; files: of values. `values` are set by --set; upgrade() changes some of them."""

    def __init__(self, machine, helm, chart, files, values):
        self.machine = machine
        self.helm_program = helm
        self.chart = chart
        self.files = files
        self.values = dict(values)
        self.name = "pool"
        self.full = "pool-engram-pool"
        self._contexts = {}

    @property
    def coordinators(self):
        """As readers name them, like the chart's own pods do."""
        if int(self.values.get("coordinator.replicas", 1)) == 1:
            return f"{self.full}-coordinator.{NAMESPACE}.svc:7000"
        return ",".join(f"{self.full}-coordinator-{i}.{self.full}-coordinators.{NAMESPACE}.svc:7000" for i in range(3))

    # ---- helm ----

    def helm(self, *words):
        output = subprocess.run([self.helm_program, *words, "--kubeconfig", self.machine.kubeconfig, "--namespace", NAMESPACE],
                                capture_output=True, text=True, timeout=1200)
        if output.returncode != 0:
            raise Failed(f"helm {' '.join(map(str, words[:3]))}: {output.stdout[-3000:]}{output.stderr[-3000:]}")
        return output.stdout

    def _settings(self):
        words = []
        for file in self.files:
            words += ["--values", file]
        for name, value in self.values.items():
            words += ["--set", f"{name}={value}"]
        return words

    def install(self):
        return self.helm("install", self.name, self.chart, *self._settings())

    def upgrade(self, *words, values=None):
        """values: those that change; None takes one back."""
        self.values.update(values or {})
        self.values = {name: value for name, value in self.values.items() if value is not None}
        self.helm("upgrade", self.name, self.chart, *self._settings(), "--timeout", "10m", *words)

    # ---- kubectl ----

    def kubectl(self, *words, **options):
        return self.machine.kubectl("--namespace", NAMESPACE, *words, **options)

    def get(self, *words):
        return self.machine.get("--namespace", NAMESPACE, *words)

    def pods(self, component):
        """Those that stay: no Job's, none that is ending."""
        found = self.get("pods", "--selector", f"app.kubernetes.io/component={component}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and
                pod["metadata"]["ownerReferences"][0]["kind"] != "Job"]

    def rollout(self, what):
        self.kubectl("rollout", "status", f"{what}", f"--timeout={WAIT_S}s", timeout=WAIT_S + 30)

    def memory_unsettled(self):
        """Why not every memory pod is ready and of the newest template; empty if they are. kubectl rollout status
        does not know sets whose pods a Job replaces."""
        sets = self.get("statefulsets", "--selector", "app.kubernetes.io/component=memory")["items"]
        pods = {pod["metadata"]["name"]: pod for pod in self.get("pods", "--selector", "app.kubernetes.io/component=memory")["items"]}
        for one in sets:
            name, status = one["metadata"]["name"], one["status"]
            if status.get("observedGeneration", 0) < one["metadata"]["generation"]:
                return f"{name} has a template that its controller has not seen"
            for i in range(one["spec"]["replicas"]):
                pod = pods.pop(f"{name}-{i}", None)
                if pod is None or "deletionTimestamp" in pod["metadata"]:
                    return f"{name}-{i} is not there"
                if pod["metadata"]["labels"]["controller-revision-hash"] != status["updateRevision"]:
                    return f"{name}-{i} is of an older template"
                if not is_ready(pod):
                    return f"{name}-{i} is not ready"
        return f"there still: {sorted(pods)}" if pods else "" if sets else "there are no memory nodes"

    def memory_rollout(self, seconds=WAIT_S):
        self.await_true(self.memory_unsettled, seconds)

    def job_name(self, suffix):
        """Of a Job whose name ends with a hash of what it runs: the one of the release's manifests now."""
        names = [m["metadata"]["name"] for m in self.get("jobs")["items"] if "deletionTimestamp" not in m["metadata"] and
                 re.fullmatch(f"{self.full}-{suffix}-[0-9a-f]{{8}}", m["metadata"]["name"])]
        if len(names) != 1:
            raise Failed(f"Jobs {self.full}-{suffix}-*: {names}")
        return names[0]

    def job_log(self, suffix):
        return self.kubectl("logs", f"job/{self.full}-{suffix}")

    # ---- engramctl, in the operator's pod ----

    def ctl(self, *words):
        return self.kubectl("exec", f"deploy/{self.full}-operator", "--", "engramctl", *words)

    def status(self):
        return json.loads(self.ctl("--json", "status"))

    def current(self):
        return next(version for version in self.status()["versions"] if version["current"])

    def unsettled(self, nodes):
        """Why not every replica is in its place on so many nodes; empty if it is."""
        status = self.status()
        if len(status["nodes"]) != nodes:
            return f"{len(status['nodes'])} nodes are known"
        for node in status["nodes"]:
            if not node["up"] or node["draining"] or node["ready_slots"] < node["assigned_slots"] or not node["assigned_slots"]:
                return f"{node['id']}: up {node['up']}, {node['ready_slots']} of {node['assigned_slots']} slots ready"
        for version in status["versions"]:
            if version["moves_pending"] or version["replicas_missing"] or version["ready_slots"] < version["slot_count"]:
                return (f"version {version['version']}: {version['moves_pending']} moves, {version['replicas_missing']} replicas "
                        f"missing, {version['ready_slots']} of {version['slot_count']} slots ready")
        return "" if status["versions"] else "there is no version"

    def await_settled(self, nodes):
        self.await_true(lambda: self.unsettled(nodes))

    def await_true(self, why_not, seconds=WAIT_S):
        """Until it gives nothing."""
        end = time.monotonic() + seconds
        said = ""
        while time.monotonic() < end:
            try:
                said = why_not()
                if not said:
                    return
            except Failed as failed:  # the operator's pod may be on its way
                said = str(failed)
            time.sleep(0.5)
        raise Failed(f"after {seconds} s: {said}")

    # ---- HTTP ----

    def context(self, who):
        """TLS as the holder of one of the release's certificates."""
        if who not in self._contexts:
            secret = self.get("secret", f"{self.full}-{who}-tls")["data"]
            with tempfile.TemporaryDirectory() as scratch:
                for name, data in secret.items():
                    pathlib.Path(scratch, name).write_bytes(base64.b64decode(data))
                context = ssl.create_default_context(cafile=f"{scratch}/ca.crt")
                context.load_cert_chain(f"{scratch}/tls.crt", f"{scratch}/tls.key")
            context.check_hostname = False  # pods are asked by their addresses
            self._contexts[who] = context
        return self._contexts[who]

    def http(self, url, who="metrics", body=None):
        request = urllib.request.Request(url, data=None if body is None else json.dumps(body).encode(),
                                         headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, context=self.context(who), timeout=60) as reply:
            return reply.read().decode()

    def metrics(self, pod, port):
        """{name{labels}: value}"""
        page = self.http(f"https://{pod['status']['podIP']}:{port}/metrics")
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def completion(self, address, prompt="Every row comes from", tokens=8):
        reply = json.loads(self.http(f"https://{address}:8080/v1/completions", "worker",
                                     {"prompt": prompt, "max_tokens": tokens, "temperature": 0}))
        return reply["choices"][0]["text"]

    # ---- When something failed ----

    def keep_logs(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Failed, OSError, subprocess.SubprocessError):
            for kind in ("pods", "events", "jobs", "statefulsets", "deployments", "pvc"):
                (folder / f"{kind}.txt").write_text(self.kubectl("get", kind, "--output", "wide", "--sort-by=.metadata.creationTimestamp"))
            (folder / "describe.txt").write_text(self.kubectl("describe", "pods"))
            for pod in self.get("pods")["items"]:
                name = pod["metadata"]["name"]
                for previous in ([], ["--previous"]):
                    text = self.kubectl("logs", name, "--all-containers", "--prefix", *previous, check=False)
                    if text and name != "verifying-reader":
                        (folder / f"{name}{'.before' if previous else ''}.log").write_text(text)
