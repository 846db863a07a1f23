"""What must hold of every manifest that the chart makes, whatever the values."""
import re
import subprocess

OUR_PROGRAMS = ("engram-coordinator", "engram-shard-server", "engram-model-worker", "engramctl", "engram-bench")


def pods_of(manifest):
    """[(labels, pod spec)] of what makes pods."""
    kind = manifest["kind"]
    if kind == "Pod":
        return [(manifest["metadata"].get("labels", {}), manifest["spec"])]
    templates = [manifest.get("spec", {}).get("template")]
    if kind == "CronJob":
        templates = [manifest["spec"]["jobTemplate"]["spec"]["template"]]
    if kind == "LeaderWorkerSet":
        templates = [manifest["spec"]["leaderWorkerTemplate"][name] for name in ("leaderTemplate", "workerTemplate")]
    return [(template["metadata"].get("labels", {}), template["spec"]) for template in templates
            if isinstance(template, dict) and "spec" in template]


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
    if words and words[0] == "/usr/bin/engram-ranks":
        # mpirun's words, up to the program.
        words = words[next((i for i, word in enumerate(words) if i and word.startswith("/")), len(words)):]
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
    pods = [labels for manifest in manifests for labels, _ in pods_of(manifest)]
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
        for _, pod in pods_of(manifest):
            claims = {c["metadata"]["name"] for c in manifest["spec"].get("volumeClaimTemplates", [])}
            check_pod(name, pod, claims)
            for container in containers_of(pod):
                containers += 1
                check_arguments(container, programs)
            if manifest["kind"] == "StatefulSet" and pod["containers"][0]["name"] == "memory-node":
                check_guaranteed(name, pod)
    check_selectors(manifests)
    return containers


def check_devices(documents, resource, annotation):
    """Who is told of a device has it, and its network; pods that read rows for themselves or others do. AssertionError."""
    having = set()
    for manifest in documents:
        annotations = [manifest["metadata"]] if manifest["kind"] == "Pod" else [manifest.get("spec", {}).get("template", {}).get("metadata", {})]
        for labels, pod in pods_of(manifest):
            for container in pod["containers"]:
                where = f"{manifest['kind']} {manifest['metadata']['name']}/{container['name']}"
                wants = {"UCX_NET_DEVICES"} & {variable["name"] for variable in container.get("env", [])}
                has = [resource in container["resources"].get(key, {}) for key in ("requests", "limits")]
                assert all(has) or (not any(has) and not wants), f"{where}: told of a device that it does not ask for"
                if all(has):
                    having.add(labels["app.kubernetes.io/component"])
                    assert wants and "IPC_LOCK" in container["securityContext"]["capabilities"]["add"], where
                    assert annotation is None or annotation in annotations[0].get("annotations", {}), f"{where}: not in the device's network"
    assert having == {"memory", "model-worker", "test", "bench"}, having


def check_ranks(rendered):
    """Several ranks: as many as are said, with a GPU each and memory between them, in one pod and in a group."""
    def worker(name, kind):
        manifest = next(m for m in rendered[name] if m["kind"] == kind and m["metadata"]["name"].endswith(("-ranks", "-model-worker")))
        return [pod["containers"][0] | {"pod": pod, "labels": labels} for labels, pod in pods_of(manifest)]

    def shared(container):
        return next(v["emptyDir"] for v in container["pod"]["volumes"] if v["name"] == "shared-memory")
    one = worker("workers", "Deployment")[0]
    assert one["command"] == ["/usr/bin/engram-model-worker"] and one["resources"]["limits"]["nvidia.com/gpu"] == "1", one["command"]
    assert not any(v["name"] == "shared-memory" for v in one["pod"]["volumes"])
    four = worker("four ranks in a pod", "Deployment")[0]
    assert four["command"] + four["args"][:4] == ["/usr/bin/engram-ranks", "4", "/usr/bin/engram-model-worker", "serve", "--tensor-parallel=4"], four["args"]
    assert four["resources"]["limits"]["nvidia.com/gpu"] == four["resources"]["requests"]["nvidia.com/gpu"] == "4"
    assert shared(four) == {"medium": "Memory", "sizeLimit": "1Gi"}
    leader, follower = worker("ranks across pods", "LeaderWorkerSet")
    hosts = leader["args"][leader["args"].index("--hosts") + 1].split(",")
    assert hosts == [f"$(POD_NAME){i}.pool-engram-pool-ranks.engram.svc" for i in ("", "-1", "-2", "-3")], hosts
    assert "--tensor-parallel=8" in leader["args"] and leader["args"][0] == "2", leader["args"]
    assert follower["command"] == ["/usr/bin/engram-ranks", "--follow"] and shared(follower) == shared(leader)
    service = next(m for m in rendered["ranks across pods"] if m["kind"] == "Service" and m["metadata"]["name"].endswith("-model-worker"))
    behind = [matches(service["spec"]["selector"], one["labels"]) for one in (leader, follower)]
    assert behind == [True, False], "the service has others than leaders behind it"
    policies = [m["spec"] for m in rendered["ranks across pods"] if m["kind"] == "NetworkPolicy" and
                matches(m["spec"]["podSelector"]["matchLabels"], follower["labels"])]
    ssh = [rule["from"] for spec in policies for rule in spec["ingress"] for port in rule["ports"]
           if "port" not in port or port["port"] <= 2222 <= port.get("endPort", port["port"])]
    assert [len(peers) for peers in ssh] == [1], ssh
    peer = ssh[0][0]["podSelector"]["matchLabels"]
    pods = [labels for manifest in rendered["ranks across pods"] for labels, _ in pods_of(manifest) if matches(peer, labels)]
    assert pods == [leader["labels"], follower["labels"]], "ssh is open to others than the group"
