"""The HorizontalPodAutoscaler of the model workers at work: Prometheus scrapes them, prometheus-adapter gives the API server what
waits of each, the controller manager acts on it. Neither is in the cluster's pods: they run beside its control plane."""
import base64
import contextlib
import json
import threading
import urllib.error

import yaml

from cluster_release import NAMESPACE
from one_machine import NODE_ADDRESS, Failed

PROMETHEUS = "127.0.0.1:9090"
ADAPTER_PORT = 6444
COMPONENTS = ("coordinator", "memory", "model-worker")
SCRAPE_S = 2
CALLERS = 12
MOST = 3


class Load:
    """Requests through the service, so many at a time."""

    def __init__(self, release):
        self.release = release
        self.address = release.get("service", f"{release.full}-model-worker")["spec"]["clusterIP"]
        self.answers = set()
        self.done = 0
        self.errors = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]
        release.context("worker")

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _call(self):
        while not self._stop.is_set():
            try:
                answer, error = self.release.completion(self.address, tokens=64), None
            except (OSError, ValueError, KeyError, urllib.error.URLError) as failed:
                answer, error = None, repr(failed)
            with self._lock:
                self.done += answer is not None
                self.answers |= {answer} - {None}
                self.errors += [error] if error else []


def scrape_config(release, folder):
    """Each component by its own name in its certificate, as the chart's ServiceMonitors have it."""
    secret = release.get("secret", f"{release.full}-metrics-tls")["data"]
    for name, data in secret.items():
        (folder / name).write_bytes(base64.b64decode(data))

    def job(component):
        return {"job_name": component, "file_sd_configs": [{"files": [str(folder / f"{component}.json")], "refresh_interval": "5s"}],
                "tls_config": {"ca_file": str(folder / "ca.crt"), "cert_file": str(folder / "tls.crt"),
                               "key_file": str(folder / "tls.key"), "server_name": f"{release.full}-{component}"}}
    return {"global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s"},
            "scrape_configs": [job(component) for component in COMPONENTS]}


class Discovery:
    """Pods with the chart's annotations, as Prometheus discovers them where it is built with Kubernetes (Debian's is not)."""

    def __init__(self, release, folder):
        self.release = release
        self.folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)

    def _follow(self):
        while not self._stop.wait(1):
            with contextlib.suppress(Failed):
                for component in COMPONENTS:
                    self._write(component, [target for pod in self.release.pods(component) for target in self._targets(pod)])

    def _write(self, component, targets):
        (self.folder / "partial").write_text(json.dumps(targets))
        (self.folder / "partial").rename(self.folder / f"{component}.json")

    @staticmethod
    def _targets(pod):
        notes = pod["metadata"].get("annotations", {})
        if notes.get("prometheus.io/scrape") != "true" or "podIP" not in pod["status"]:
            return []
        return [{"targets": [f"{pod['status']['podIP']}:{notes['prometheus.io/port']}"],
                 "labels": {"__scheme__": notes["prometheus.io/scheme"], "__metrics_path__": notes["prometheus.io/path"],
                            "namespace": NAMESPACE, "pod": pod["metadata"]["name"]}}]


def api_service():
    """The adapter beside the control plane, as one of the API server's groups."""
    meta = {"name": "metrics-adapter", "namespace": "kube-system"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": [{"port": 443, "targetPort": ADAPTER_PORT}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
         "metadata": {**meta, "labels": {"kubernetes.io/service-name": "metrics-adapter"}}, "addressType": "IPv4",
         "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}], "ports": [{"name": "", "port": ADAPTER_PORT}]},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1beta2.custom.metrics.k8s.io"},
         "spec": {"group": "custom.metrics.k8s.io", "version": "v1beta2", "insecureSkipTLSVerify": True, "groupPriorityMinimum": 100,
                  "versionPriority": 200, "service": {"name": "metrics-adapter", "namespace": "kube-system"}}}]


@contextlib.contextmanager
def metrics_pipeline(machine, release, adapter):
    """Prometheus and the adapter, the latter with the rule that the chart ships."""
    folder = machine.folder / "metrics"
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(scrape_config(release, folder)))
    rule = release.get("configmap", f"{release.full}-adapter-rule")["data"]["rule.yaml"]
    (folder / "adapter.yaml").write_text(yaml.safe_dump({"rules": yaml.safe_load(rule)}))
    machine.run("prometheus", "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={PROMETHEUS}")
    config = f"{machine.kubeconfig}"
    machine.run("prometheus-adapter", adapter, f"--secure-port={ADAPTER_PORT}", f"--cert-dir={folder / 'adapter'}",
                f"--lister-kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
                f"--prometheus-url=http://{PROMETHEUS}/", f"--config={folder / 'adapter.yaml'}", "--metrics-relist-interval=4s",
                "--metrics-max-age=30s")
    machine.apply(*api_service())
    try:
        with Discovery(release, folder):
            yield
    finally:
        machine.kubectl("delete", "apiservice", "v1beta2.custom.metrics.k8s.io", check=False)
        machine.end("prometheus-adapter")
        machine.end("prometheus")


def queued(machine, release):
    """What the API server says waits in each worker, as the autoscaler asks it."""
    try:
        reply = machine.get_json(f"/apis/custom.metrics.k8s.io/v1beta2/namespaces/{NAMESPACE}/pods/*/engram_worker_requests_queued"
                                 f"?labelSelector=app.kubernetes.io%2Fcomponent%3Dmodel-worker")
    except OSError as error:
        raise Failed(f"{error}: {machine.folder}/prometheus-adapter.log") from error
    return {item["describedObject"]["name"]: item["value"] for item in reply["items"]}


def autoscale(run, machine, adapter):
    """Workers follow the queue; memory nodes and the shard map do not move for it."""
    release = run.release
    deployment = f"{release.full}-model-worker"
    own = "modelWorkers.autoscaling."
    values = {own + "enabled": "true", own + "maxReplicas": MOST, own + "queuedPerWorker": 2, own + "scaleDownSeconds": 15}
    def replicas():
        return release.get("deployment", deployment)["status"].get("readyReplicas", 0)
    with run.step(f"requests queue up: the autoscaler takes model workers from 1 to {MOST}") as notes, contextlib.ExitStack() as stack:
        release.upgrade(values=values)
        before, nodes = release.current(), sorted(node["incarnation"] for node in release.status()["nodes"])
        stack.enter_context(metrics_pipeline(machine, release, adapter))
        release.await_true(lambda: "" if queued(machine, release) else "no metrics yet", 90)
        idle = queued(machine, release)
        with Load(release) as load:
            release.await_true(lambda: "" if replicas() == MOST else f"{replicas()} workers: {queued(machine, release)}")
            waiting = queued(machine, release)
        notes.append(f"{CALLERS} callers: {idle} -> {waiting} requests waiting; {load.done} requests answered, {len(load.errors)} not")
        run.require(len(load.answers) == 1 and not load.errors, f"{load.answers} {load.errors[:3]}")
        began = len(notes)
        release.await_true(lambda: "" if replicas() == 1 and len(release.pods("model-worker")) == 1 else f"{replicas()} workers")
        events = release.get("events", "--field-selector", "reason=SuccessfulRescale")["items"]
        notes[began:] = [event["message"] for event in events]
        current = release.current()
        run.require(current["epoch"] == before["epoch"], f"the epoch was {before['epoch']} and is {current['epoch']}")
        run.require(sorted(node["incarnation"] for node in release.status()["nodes"]) == nodes, "memory nodes are others than before")
        notes.append(f"epoch {before['epoch']} and memory nodes as before")
    release.upgrade(values=dict.fromkeys(values))
    run.workers(1)
