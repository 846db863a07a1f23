"""Three coordinators with the chart's own etcd: the one that leads and members of etcd are lost, and all of etcd's data."""
import contextlib
import urllib.request

from cluster_release import NAMESPACE, local_volume
from one_machine import Failed

VALUES = {"coordinator.replicas": 3, "etcd.enabled": "true", "etcd.image.repository": "engram-test-etcd", "etcd.image.tag": "of-debian",
          "etcd.resources.requests.cpu": "50m", "etcd.resources.requests.memory": "64Mi", "etcd.persistence.size": "1Gi",
          "etcd.snapshots.claimName": "snapshots"}
RESTORED_TERMS = 1 << 40
RESTORED_VERSIONS = 1_000_000
RESTORED_EPOCHS = 1 << 30


def manifests(folder):
    """Disks of etcd's members, those of the coordinators but one ("state" is there), and one for snapshots."""
    disks = [f"etcd-{i}" for i in range(3)] + [f"audit-{i}" for i in range(2)]
    return [*(local_volume(folder, disk) for disk in disks), local_volume(folder, "snapshots", "ReadWriteMany", "2Gi"),
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "snapshots", "namespace": NAMESPACE},
             "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "2Gi"}}}}]


def leader(release):
    """(pod, term) of the coordinator that leads."""
    leading = []
    for pod in release.pods("coordinator"):
        try:
            metrics = release.metrics(pod, 7001)
        except (KeyError, OSError):  # it has no address yet, or does not listen
            continue
        if metrics.get("engram_coordinator_leading"):
            leading.append((pod["metadata"]["name"], int(metrics["engram_coordinator_term"])))
    if len(leading) != 1:
        raise Failed(f"{leading} lead")
    return leading[0]


def await_leader(release, after):
    """Another term than `after`."""
    found = []

    def why_not():
        found[:] = [leader(release)]
        return "" if found[0][1] > after else f"{found[0]} leads still"
    release.await_true(why_not)
    return found[0]


def etcd_leader(release):
    """The member that leads the others."""
    leading = []
    for pod in release.pods("etcd"):
        with contextlib.suppress(KeyError, OSError), urllib.request.urlopen(f"http://{pod['status']['podIP']}:2381/metrics", timeout=5) as page:
            if b"\netcd_server_is_leader 1" in page.read():
                leading.append(pod["metadata"]["name"])
    if len(leading) != 1:
        raise Failed(f"members {leading} lead")
    return leading[0]


def kill(release, pod):
    """As if its host had lost power: no word from it, and nothing it could still do."""
    uid = release.get("pod", pod)["metadata"]["uid"]
    release.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    release.await_true(lambda: "" if release.get("pod", pod)["metadata"]["uid"] != uid else f"{pod} is there still")


def lose_leader(run, nodes):
    release = run.release
    with run.step("the leading coordinator's pod is killed") as notes:
        pod, term = leader(release)
        kill(release, pod)
        successor, next_term = await_leader(release, term)
        release.rollout(f"statefulset/{release.full}-coordinator")
        release.await_settled(nodes)
        notes.append(f"{pod} led at term {term}, now {successor} at {next_term}")


def lose_member(run, nodes):
    release = run.release
    with run.step("the pod of etcd's leading member is killed") as notes:
        pod = etcd_leader(release)
        kill(release, pod)
        # What is written meanwhile is written by the two that are left.
        release.ctl("drain", f"{release.full}-memory-0")
        release.ctl("undrain", f"{release.full}-memory-0")
        release.rollout(f"statefulset/{release.full}-etcd")
        release.await_settled(nodes)
        notes.append(f"{pod} led, now {etcd_leader(release)}; a change was made while it was away; it came back with its data")


def snapshot(release):
    """Its file's name."""
    release.kubectl("create", "job", f"--from=cronjob/{release.full}-etcd-snapshot", "before")
    release.kubectl("wait", "job/before", "--for=condition=Complete", "--timeout=60s")
    return release.get("pods", "--selector", "job-name=before")["items"][0]["metadata"]["name"] + ".db"


def restore(run, machine, folder, nodes):
    """As docs/OPERATIONS.md says. What was made since the snapshot is gone; its numbers are not given again."""
    release = run.release
    with run.step("a snapshot of etcd's state, then a second version") as notes:
        epoch = release.current()["epoch"]
        file = snapshot(release)
        notes.append(file)
        notes.append(release.ctl("create-version", "--model", "/models/v2", "--not-current", "--replicas", "2", "--wait").splitlines()[-1])
        _, term = leader(release)
    with run.step("etcd's data is lost, all of it, and put back from the snapshot") as notes:
        release.kubectl("scale", f"statefulset/{release.full}-coordinator", f"statefulset/{release.full}-etcd", "--replicas=0")
        for component in ("coordinator", "etcd"):
            release.await_true(lambda component=component: f"{component}s are there" if release.pods(component) else "")
        claims = [f"data-{release.full}-etcd-{i}" for i in range(3)]
        release.kubectl("delete", "pvc", *claims)
        machine.apply(*(local_volume(folder, f"etcd-{i}") for i in range(3, 6)))
        release.upgrade("--no-hooks", values={"etcd.snapshots.restore": file, "coordinator.restored": "in-the-test"})
        for what in ("etcd", "coordinator"):
            release.rollout(f"statefulset/{release.full}-{what}")
        _, next_term = await_leader(release, term)
        release.await_settled(nodes)
        run.require(next_term > RESTORED_TERMS, f"term {next_term} after {term}")
        current = release.current()
        run.require(current["version"] == 1 and current["epoch"] > epoch + RESTORED_EPOCHS - 1, f"{current} after epoch {epoch}")
        run.require([v["version"] for v in release.status()["versions"]] == [1], "version 2 is there, and was made after the snapshot")
        notes.append(f"term {term} -> {next_term}; version 2 is gone, the next one made is not 2")
    with run.step("the version is made again, and the restore's values taken back") as notes:
        said = release.ctl("create-version", "--model", "/models/v2", "--not-current", "--replicas", "2", "--wait").splitlines()[-1]
        run.require(f"version {RESTORED_VERSIONS + 2} " in said, said)
        notes.append(said)
        release.ctl("drop-version", str(RESTORED_VERSIONS + 2))
        release.upgrade(values={"etcd.snapshots.restore": None, "coordinator.restored": None})
        for what in ("etcd", "coordinator"):
            release.rollout(f"statefulset/{release.full}-{what}")
        release.await_settled(nodes)
        notes.append("members and coordinators restarted one at a time, with the data they have")
