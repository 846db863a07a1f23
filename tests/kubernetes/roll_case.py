"""The chart's roll Job against a real API server, as its own service account, with a coordinator and memory nodes of this machine.
The test plays what is not there: the StatefulSets' controller and the kubelet."""
import json
import pathlib
import subprocess
import threading
import time

from api_server import free_ports

WAIT_S = 120
NAME = "pool-engram-pool"


class Play:
    """Pods of the sets in the API server, each with a memory node; one that is gone comes back with the newest template."""

    def __init__(self, server, namespace, bin_dir, folder, sets):
        self.server = server
        self.core = f"/api/v1/namespaces/{namespace}"
        self.apps = f"/apis/apps/v1/namespaces/{namespace}"
        self.bin_dir = bin_dir
        self.folder = folder
        self.pods = [f"{m['metadata']['name']}-{i}" for m in sets for i in range(m["spec"]["replicas"])]
        self.sets = sets
        self.processes = {}
        self.coordinator, self.http = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.hash = "old"
        self.away = []     # how many were not there, at each look
        self.order = []    # in which they came back
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._control, daemon=True)
        self.error = None

    def __enter__(self):
        self._start("coordinator", "engram-coordinator", "--listen", self.coordinator, "--http", self.http,
                    "--state", str(self.folder / "roll.sqlite"))
        for pod in self.pods:
            self._make(pod)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(30)
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _start(self, name, *words):
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([self.bin_dir / words[0], *words[1:]], stdout=log, stderr=log)

    def _must(self, method, path, body, content="application/json"):
        status, answer, _ = self.server.call(method, path, body, content)
        assert status in (200, 201), f"{method} {path}: {status} {answer}"
        return answer

    def _status(self, path, status):
        self._must("PATCH", f"{path}/status", {"status": status}, "application/merge-patch+json")

    def start_node(self, pod):
        self._start(pod, "engram-shard-server", "--id", pod, "--coordinator", self.coordinator, "--listen", "127.0.0.1:0",
                    "--http", "127.0.0.1:0", "--memory", "16MiB")

    def kill_node(self, pod):
        """Until the coordinator calls it down; the pod is ready still, as one that is cut off may be."""
        process = self.processes.pop(pod)
        process.kill()
        process.wait()
        end = time.monotonic() + WAIT_S
        while True:
            said = subprocess.run([self.bin_dir / "engramctl", "--json", "status", "--coordinator", self.coordinator],
                                  check=True, capture_output=True, text=True, timeout=WAIT_S).stdout
            if not next(node for node in json.loads(said)["nodes"] if node["id"] == pod)["up"]:
                return
            assert time.monotonic() < end, f"{pod} is not called down"
            time.sleep(0.2)

    def _make(self, pod):
        self.start_node(pod)
        image = [{"name": "c", "image": "none:1"}]
        self._must("POST", f"{self.core}/pods", {
            "apiVersion": "v1", "kind": "Pod", "spec": {"containers": image, "terminationGracePeriodSeconds": 0},
            "metadata": {"name": pod, "labels": {"controller-revision-hash": self.hash, "played": "yes"}}})
        self._status(f"{self.core}/pods/{pod}", {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})

    def say_template(self, value):
        """A template that the sets' controller has seen."""
        self.hash = value
        for one in self.sets:
            name = one["metadata"]["name"]
            found = self.server.call("GET", f"{self.apps}/statefulsets/{name}")[1]
            self._status(f"{self.apps}/statefulsets/{name}", {
                "replicas": found["spec"]["replicas"], "updateRevision": value, "observedGeneration": found["metadata"]["generation"]})

    def _control(self):
        try:
            while not self._stop.wait(0.1):
                there = {p["metadata"]["name"] for p in self.server.call("GET", f"{self.core}/pods?labelSelector=played%3Dyes")[1]["items"]}
                gone = [pod for pod in self.pods if pod not in there]
                self.away.append(len(gone))
                for pod in gone:
                    process = self.processes.pop(pod)
                    process.kill()
                    process.wait()
                    time.sleep(1)
                    self.order.append(pod)
                    self._make(pod)
        except (OSError, AssertionError, KeyError) as error:
            self.error = error


def check(server, namespace, documents, bin_dir, folder):
    """Returns what to print; AssertionError on the first thing that is wrong."""
    sets = [m for m in documents if m["kind"] == "StatefulSet" and m["metadata"]["labels"]["app.kubernetes.io/component"] == "memory"]
    job = next(m for m in documents if m["kind"] == "Job" and m["metadata"]["name"].startswith(f"{NAME}-roll-"))
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    mine = [m for m in documents if m["kind"] in ("ServiceAccount", "Role", "RoleBinding") and m["metadata"]["name"] == f"{NAME}-roll"]
    assert len(mine) == 3, mine
    for manifest in sets + mine:
        manifest["metadata"].pop("namespace", None)
        for subject in manifest.get("subjects", []):
            subject["namespace"] = namespace
        server.apply(manifest, namespace, dry_run=False)
    # The API server learns of rights a moment later.
    end = time.monotonic() + WAIT_S
    first = f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{sets[0]['metadata']['name']}"
    while server.call("GET", first, account=f"{namespace}:{NAME}-roll")[0] != 200:
        assert time.monotonic() < end, "the roll's account may not read its StatefulSets"
        time.sleep(0.1)
    account = folder / "account"
    account.mkdir()
    status, token, _ = server.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{NAME}-roll/token",
                                   {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    assert status == 201, token
    (account / "token").write_text(token["status"]["token"])
    (account / "namespace").write_text(namespace)
    (account / "ca.crt").write_text((pathlib.Path(server.folder) / "apiserver.crt").read_text())
    env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
    with Play(server, namespace, bin_dir, folder, sets) as play:
        env["ENGRAM_COORDINATOR"] = play.coordinator

        def roll(*more):
            words = [str(bin_dir / "engramctl"), *command[1:], "--account", str(account), "--settle-s", "1", *more]
            settle = words.index("--settle-s")
            del words[settle:settle + 2]  # the chart's
            return subprocess.run(words, env=env, capture_output=True, text=True, timeout=WAIT_S)
        play.say_template("old")
        said = roll()
        assert said.returncode == 0 and "none was replaced" in said.stdout, said
        play.say_template("new")
        # With another node down no pod goes, whatever the API server says of pods.
        play.kill_node(play.pods[0])
        said = roll("--wait-timeout-s", "3")
        assert said.returncode == 1 and f"waits for node {play.pods[0]} to be up" in said.stderr and not play.order, f"{said} {play.order}"
        play.start_node(play.pods[0])
        said = roll("--json")
        assert said.returncode == 0 and play.error is None, f"{said} {play.error}"
        wanted = [f"{m['metadata']['name']}-{i}" for m in sets for i in reversed(range(m["spec"]["replicas"]))]
        assert json.loads(said.stdout)["replaced"] == play.order == wanted, f"{said.stdout} {play.order}"
        assert max(play.away) == 1, f"{max(play.away)} pods were away at once"
        # What it may not: other pods, their deletion, and a set's change.
        user = f"{namespace}:{NAME}-roll"
        pod = f"{play.core}/pods/{wanted[0]}"
        for method, path, body in (("GET", f"{play.core}/pods", None), ("DELETE", pod, None), ("GET", f"{play.core}/pods/other-0", None),
                                   ("DELETE", f"{play.apps}/statefulsets/{sets[0]['metadata']['name']}", None),
                                   ("POST", f"{play.core}/pods/other-0/eviction", {"apiVersion": "policy/v1", "kind": "Eviction",
                                                                                   "metadata": {"name": "other-0"}})):
            status = server.call(method, path, body, account=user)[0]
            assert status == 403, f"{method} {path}: the roll's account is answered {status}"
        # Names that are not the release's: refused with what it needs.
        words = [word if word != sets[0]["metadata"]["name"] else "other" for word in command]
        said = subprocess.run([str(bin_dir / "engramctl"), *words[1:], "--account", str(account)], env=env, capture_output=True,
                              text=True, timeout=WAIT_S)
        assert said.returncode == 1 and "create pods/eviction" in said.stderr, said
        # An API server whose certificate is of somebody else is told nothing.
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other", "-keyout", folder / "other.key",
                        "-out", account / "ca.crt"], check=True, capture_output=True)
        said = roll()
        assert said.returncode == 1 and "ca.crt" in said.stderr, said
    for one in sets:
        server.call("DELETE", f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{one['metadata']['name']}")
    for pod in play.pods:
        server.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{pod}?gracePeriodSeconds=0")
    for kind, path in (("rolebindings", "apis/rbac.authorization.k8s.io/v1"), ("roles", "apis/rbac.authorization.k8s.io/v1"),
                       ("serviceaccounts", "api/v1")):
        server.call("DELETE", f"/{path}/namespaces/{namespace}/{kind}/{NAME}-roll")
    return f"{len(wanted)} memory pods of {len(sets)} zones replaced one at a time by the roll Job's command and account"
