"""Network policies at work: who reaches what, tried from pods."""
from cluster_release import NAMESPACE

LISTENS = "0A"  # in /proc/net/tcp
LOOPBACK = ("0100007F", "00000000000000000000000001000000")
ASK = 'for at in "$@"; do if timeout 3 bash -c "exec 3<>/dev/tcp/${at%:*}/${at#*:}" 2>/dev/null; then echo "$at"; fi; done'


def stranger(name, labels):
    """A pod of the same namespace that may do nothing, which is what a policy is for."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0,
                     "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
                     "containers": [{"name": "stranger", "image": "engram-test-reader:1", "command": ["sleep", "infinity"],
                                     "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                                     "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                         "capabilities": {"drop": ["ALL"]}}}]}}


def ports(release, pod):
    """Those on which the pod's processes listen for others."""
    lines = release.kubectl("exec", pod, "--", "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
    sockets = [line.split() for line in lines if ":" in line.split()[0]]
    places = (words[1].split(":") for words in sockets if words[3] == LISTENS)
    return sorted({int(port, 16) for address, port in places if address not in LOOPBACK})


def targets(release):
    """{what: [address:port]} of everything that listens in the release's pods."""
    found = {}
    for component in ("coordinator", "memory", "model-worker", "etcd"):
        for pod in release.pods(component):
            named = {port["containerPort"]: port["name"] for port in pod["spec"]["containers"][0]["ports"]}
            for port in ports(release, pod["metadata"]["name"]):
                found.setdefault(f"{component} {named.get(port, 'rows')}", []).append(f"{pod['status']['podIP']}:{port}")
    return found


def reached(release, pod, found):
    """Names of what the pod can connect to; all of a kind, or none."""
    every = [at for places in found.values() for at in places]
    open_ = set(release.kubectl("exec", pod, "--", "bash", "-c", ASK, "ask", *every).split())
    mixed = [what for what, places in found.items() if 0 < len(open_ & set(places)) < len(places)]
    return {what for what, places in found.items() if set(places) <= open_}, mixed


def policies(run):
    """Each pod reaches what its labels allow, all of it, and nothing else."""
    release = run.release
    instance = {"app.kubernetes.io/instance": release.name, "app.kubernetes.io/part-of": "engram-pool"}
    # Everybody may scrape and call the workers: networkPolicy.metrics and workerClients are empty.
    everybody = {"coordinator http", "memory http", "model-worker http", "etcd metrics"}
    control, rows = {"coordinator control"}, {"memory sessions", "memory rows", "model-worker rows"}
    pods = {"stranger": ({"app": "stranger"}, set()),
            "stranger-with-rows": ({**instance, "engram-pool/rows": "true"}, control | rows),
            "stranger-operator": ({**instance, "engram-pool/operator": "true"}, control)}
    with run.step("network policies: what pods with and without the release's labels reach") as notes:
        run.machine.apply(*(stranger(name, labels) for name, (labels, _) in pods.items()))
        for name in pods:
            release.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")
        found = targets(release)
        run.require({"coordinator control", "memory rows"} <= set(found), f"what listens: {sorted(found)}")
        for name, (_, allowed) in pods.items():
            wanted = (allowed | everybody) & set(found)
            last = {}

            def wrong(name=name, wanted=wanted, last=last):
                can, mixed = reached(release, name, found)
                last["can"] = can
                return "" if can == wanted and not mixed else (f"{name} reaches {sorted(can - wanted)} and should not, does not reach "
                                                               f"{sorted(wanted - can)} and should; of {mixed} some")
            release.await_true(wrong, 30)
            notes.append(f"{name} reaches {', '.join(sorted(last['can']))}, not {', '.join(sorted(set(found) - last['can'])) or 'nothing'}")
        release.kubectl("delete", "pod", *pods, "--wait=true")
