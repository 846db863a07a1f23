"""The verifying reader in a pod: what it says, added up."""
import json
import subprocess
import threading
import time

from one_machine import Failed, die_with_parent

BATCHES_PER_S = 25
TOKENS = 16
WAIT_S = 120


def manifest(release, namespace, models):
    """As strict as the chart's own pods; it reads as model workers do, with their certificate."""
    labels = {"app": "verifying-reader", "app.kubernetes.io/instance": release.name,
              "app.kubernetes.io/part-of": "engram-pool", "engram-pool/rows": "true"}
    words = ["engram-verifying-reader", "--coordinator", release.coordinators, "--certs", "/etc/engram/certs", "--transport", "tcp",
             "--tokens", str(TOKENS)]
    for model in models:
        words += ["--model", model]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "verifying-reader", "namespace": namespace, "labels": labels},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
                                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "reader", "image": "engram-test-reader:1",
                # It reads until its input ends.
                "command": ["/bin/sh", "-c", f"(echo {BATCHES_PER_S}; exec sleep infinity) | exec {' '.join(words)}"],
                "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
                "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                    "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "certs", "mountPath": "/etc/engram/certs", "readOnly": True},
                                 {"name": "models", "mountPath": "/models", "readOnly": True},
                                 {"name": "tmp", "mountPath": "/tmp"}]}],
            "volumes": [{"name": "certs", "secret": {"secretName": f"{release.full}-worker-tls", "defaultMode": 0o440}},
                        {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
                        {"name": "tmp", "emptyDir": {}}]}}


class Tally:
    """Of some time. Times are the machine's steady clock's, in a pod as here."""

    def __init__(self, lines):
        def total(key):
            return sum(line[key] for line in lines)
        self.rows_verified = total("rows_verified")
        self.rows_wrong = total("rows_wrong")
        self.batches = total("batches")
        self.batches_failed = total("batches_failed")
        self.batches_of = [sum(counts) for counts in zip(*(line["batches_of"] for line in lines))] if lines else []
        self.crc_wrong = total("crc_wrong")
        self.longest_ms = max((ms for line in lines for ms in line["batch_ms"]), default=0)
        self.errors = [error for line in lines for error in line["errors"]]

    @property
    def good(self):
        return self.rows_wrong == 0 and self.batches_failed == 0


class Reader:
    def __init__(self, machine, namespace):
        self.machine = machine
        self.namespace = namespace
        self.lines = []
        self.other = []  # what it logged
        self.process = None

    def start(self, pod):
        self.machine.apply(pod)
        self.machine.kubectl("--namespace", self.namespace, "wait", "pod/verifying-reader", "--for=condition=Ready",
                             f"--timeout={WAIT_S}s")
        self.process = subprocess.Popen(
            [self.machine.programs["kubectl"], "--kubeconfig", self.machine.kubeconfig, "--namespace", self.namespace,
             "logs", "--follow", "verifying-reader"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=die_with_parent)
        threading.Thread(target=self._follow, daemon=True).start()
        end = time.monotonic() + WAIT_S
        while self.tally().rows_verified == 0:
            self.check()
            if time.monotonic() > end:
                raise Failed(f"the reader has read nothing after {WAIT_S} s: {self.other[-5:]}")
            time.sleep(0.1)

    def _follow(self):
        for text in self.process.stdout:
            if text.startswith("{"):
                self.lines.append(json.loads(text))
            else:
                self.other.append(text.strip())

    def check(self):
        if self.process.poll() is not None:
            raise Failed(f"the reader ended: {self.other[-5:]}")

    def tally(self, began=0.0, ended=float("inf")):
        return Tally([line for line in list(self.lines) if began < line["t"] <= ended])

    def stop(self):
        self.machine.kubectl("--namespace", self.namespace, "delete", "pod", "verifying-reader", "--wait=true")
        self.process.wait(30)
