"""What must hold of every manifest that the chart makes, whatever the values."""
import re
import subprocess

OUR_PROGRAMS = ("engram-coordinator", "engram-shard-server", "engram-model-worker", "engramctl", "engram-bench")


def pod_of(manifest):
    """(labels, pod spec) of what makes pods; else (None, None)."""
    kind = manifest["kind"]
    if kind == "Pod":
        return manifest["metadata"].get("labels", {}), manifest["spec"]
    template = manifest.get("spec", {}).get("template")
    if kind == "CronJob":
        template = manifest["spec"]["jobTemplate"]["spec"]["template"]
    if not isinstance(template, dict) or "spec" not in template:
        return None, None
    return template["metadata"].get("labels", {}), template["spec"]


def containers_of(pod):
    return pod.get("initContainers", []) + pod["containers"]


class Help:
    """The flags that our programs say they have."""

    def __init__(self, bin_dir):
        self.bin_dir = bin_dir
        self.known = {}

    def flags(self, words):
        words = tuple(words)
        if words not in self.known:
            program = self.bin_dir / words[0]
            if not program.exists():
                self.known[words] = None
            else:
                output = subprocess.run([program, *words[1:], "--help"], capture_output=True, text=True, check=True)
                self.known[words] = set(re.findall(r"--[a-z][a-z0-9-]*", output.stdout))
        return self.known[words]


def check_arguments(container, programs):
    """Every flag that a container gives one of our programs is one that it has."""
    words = container.get("command", []) + container.get("args", [])
    name = words[0].rsplit("/", 1)[-1] if words else ""
    if name not in OUR_PROGRAMS:
        return
    assert words[0] == f"/usr/bin/{name}", words[0]
    subcommands = []
    for word in words[1:]:
        if word.startswith("-"):
            break
        subcommands.append(word)
    flags = programs.flags([name, *subcommands])
    if flags is None:
        return
    for word in words[1:]:
        if word.startswith("--"):
            assert word.split("=")[0] in flags, f"{name} {' '.join(subcommands)} has no {word.split('=')[0]}"


def check_pod(name, pod, volumes_of_claims):
    assert pod["automountServiceAccountToken"] is False, f"{name}: a service-account token"
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] == 10001, name
    assert security["seccompProfile"]["type"] == "RuntimeDefault", name
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | volumes_of_claims
    mounted = set()
    for container in containers_of(pod):
        where = f"{name}/{container['name']}"
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True and own["allowPrivilegeEscalation"] is False, where
        assert own["capabilities"]["drop"] == ["ALL"], where
        assert "memory" in container["resources"]["limits"], f"{where}: no memory limit"
        command = container.get("command", [""])[0]
        assert command.rsplit("/", 1)[-1] not in ("sh", "bash"), f"{where}: needs a shell"
        assert re.search(r":[A-Za-z0-9._-]+$|@sha256:", container["image"]), f"{where}: image without a tag"
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes, f"{where}: mounts {mount['name']}, which is no volume"
            mounted.add(mount["name"])
        variables = {variable["name"] for variable in container.get("env", [])}
        assert len(variables) == len(container.get("env", [])), f"{where}: a variable twice"
        for word in container.get("command", []) + container.get("args", []):
            for used in re.findall(r"\$\(([A-Z_]+)\)", str(word)):
                assert used in variables, f"{where}: $({used}) is not set"
    assert mounted == volumes, f"{name}: volumes that nobody mounts: {volumes - mounted}"


def check_guaranteed(name, pod):
    for container in containers_of(pod):
        resources = container["resources"]
        assert resources["requests"] == resources["limits"] and "cpu" in resources["limits"], \
            f"{name}/{container['name']}: not in the Guaranteed class"


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def check_selectors(manifests):
    """What selects pods selects some."""
    pods = [labels for labels, pod in map(pod_of, manifests) if pod is not None]
    for manifest in manifests:
        kind, spec = manifest["kind"], manifest.get("spec", {})
        selector = {"Service": lambda: spec["selector"],
                    "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
                    "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"]}.get(kind)
        if selector is not None:
            assert any(matches(selector(), labels) for labels in pods), \
                f"{kind} {manifest['metadata']['name']} selects no pod"
        if kind in ("StatefulSet", "Deployment"):
            assert matches(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]), kind


def check_manifests(manifests, programs):
    """AssertionError on the first thing that is wrong. Returns how many containers there are."""
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(set(names)) == len(names), "two manifests of one name"
    containers = 0
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        assert len(manifest["metadata"]["name"]) <= 63, name
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "engram-pool", name
        _, pod = pod_of(manifest)
        if pod is None:
            continue
        claims = {c["metadata"]["name"] for c in manifest["spec"].get("volumeClaimTemplates", [])}
        check_pod(name, pod, claims)
        for container in containers_of(pod):
            containers += 1
            check_arguments(container, programs)
        if manifest["kind"] == "StatefulSet" and pod["containers"][0]["name"] == "memory-node":
            check_guaranteed(name, pod)
    check_selectors(manifests)
    return containers
