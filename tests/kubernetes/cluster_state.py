"""The state of a lone coordinator, saved and put back as docs/OPERATIONS.md says."""
import pathlib
import re
import subprocess

import yaml
from cluster_etcd import RESTORED_EPOCHS, RESTORED_VERSIONS, await_leader, leader
from cluster_release import NAMESPACE
from one_machine import Failed

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "OPERATIONS.md"
RESTORED_TERMS = 1 << 20
SAVE = "cd /var/lib/engram; tar -cf - state.sqlite*"
PUT_BACK = "cd /var/lib/engram; rm -f state.sqlite*; tar -xf -"


def _pod(release):
    """The guide's own manifest, with this release's image."""
    guide = GUIDE.read_text()
    for command in (SAVE, PUT_BACK):
        if command not in guide:
            raise Failed(f"docs/OPERATIONS.md has another command than '{command}'")
    found = re.search(r"kubectl apply -f - <<'END'\n(apiVersion: v1\nkind: Pod\nmetadata: {name: engram-state}.*?)\nEND\n", guide, re.S)
    if found is None:
        raise Failed("docs/OPERATIONS.md has no pod engram-state")
    pod = yaml.safe_load(found[1])
    pod["metadata"]["namespace"] = NAMESPACE
    pod["spec"]["containers"][0]["image"] = f"engram-pool:{release.values['image.tag']}"
    return pod


def _in_pod(release, command, data=b""):
    """What the command printed, as it is."""
    output = subprocess.run([release.machine.programs["kubectl"], "--kubeconfig", release.machine.kubeconfig, "--namespace", NAMESPACE,
                             "exec", "-i", "engram-state", "--", "sh", "-c", command], input=data, capture_output=True, timeout=120)
    if output.returncode != 0:
        raise Failed(f"in the pod engram-state: {command}: {output.stderr.decode(errors='replace').strip()}")
    return output.stdout


def _without_a_coordinator(release, command, data=b""):
    coordinator = f"{release.full}-coordinator"
    release.kubectl("scale", f"statefulset/{coordinator}", "--replicas=0")
    release.kubectl("wait", f"pod/{coordinator}-0", "--for=delete", "--timeout=60s")
    release.machine.apply(_pod(release))
    release.kubectl("wait", "pod/engram-state", "--for=condition=Ready", "--timeout=60s")
    output = _in_pod(release, command, data)
    release.kubectl("delete", "pod", "engram-state", "--grace-period=0")
    return output


def save_and_restore(run, model, nodes):
    """Another version of `model` is made after the backup: it is gone then, and its number is not given again."""
    release = run.release
    coordinator = f"statefulset/{release.full}-coordinator"
    with run.step("the coordinator's state is saved, then another version made") as notes:
        before = release.current()
        saved = _without_a_coordinator(release, SAVE)
        release.kubectl("scale", coordinator, "--replicas=1")
        release.rollout(coordinator)
        release.await_settled(nodes)
        notes.append(f"{len(saved) >> 10} KiB")
        said = release.ctl("create-version", "--model", model, "--not-current", "--replicas", "2", "--wait").splitlines()[-1]
        given = int(re.search(r"version (\d+) ", said)[1])
        notes.append(said)
        _, term = leader(release)
    with run.step("the saved state is put back") as notes:
        _without_a_coordinator(release, PUT_BACK, saved)
        release.upgrade("--no-hooks", values={"coordinator.restored": "in-the-test"})
        release.rollout(coordinator)
        _, next_term = await_leader(release, term)
        release.await_settled(nodes)
        run.require(next_term > RESTORED_TERMS, f"term {next_term} after {term}")
        current = release.current()
        run.require(current["version"] == before["version"] and current["epoch"] >= before["epoch"] + RESTORED_EPOCHS, f"{current} after {before}")
        there = [v["version"] for v in release.status()["versions"]]
        run.require(there == [before["version"]], f"versions {there} are there: {given} was made after the backup")
        said = release.ctl("create-version", "--model", model, "--not-current", "--replicas", "2", "--wait").splitlines()[-1]
        run.require(f"version {RESTORED_VERSIONS + given} " in said, said)
        notes.append(f"term {term} -> {next_term}; version {given} is gone, and the next one made {RESTORED_VERSIONS + given}")
        release.ctl("drop-version", str(RESTORED_VERSIONS + given))
        release.await_settled(nodes)
