"""Programs in Go that the tests of the chart run: built once, under build/kubernetes, from modules that are pinned."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "kubernetes"
BUILD = ROOT / "build" / "kubernetes"
HELM_VERSION = "v3.22.0"
KUBE_ROUTER_VERSION = "v2.1.0"


def version_of(module, folder):
    """As the module's go.mod pins it."""
    text = (HERE / folder / "go.mod").read_text()
    return re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.M)[1]


KUBERNETES_VERSION = version_of("k8s.io/kubernetes", "programs")
COREDNS_VERSION = version_of("github.com/coredns/coredns", "coredns")
ADAPTER_VERSION = version_of("sigs.k8s.io/prometheus-adapter", "prometheus-adapter")


LWS = "sigs.k8s.io/lws"
LWS_VERSION = version_of(LWS, "lws")


def go(what, folder, *words):
    if shutil.which("go") is None:
        sys.exit(f"no {what}, and no go to build it with: install Go 1.24 or later")
    print(f"building {what} (once)", flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", *words], check=True, cwd=folder, env=dict(os.environ, GOBIN=str(BUILD), CGO_ENABLED="0"))


def find_helm():
    found = shutil.which("helm")
    if found is not None:
        return pathlib.Path(found)
    if not (BUILD / "helm").exists():
        go(f"helm {HELM_VERSION}", ROOT, "install", f"helm.sh/helm/v3/cmd/helm@{HELM_VERSION}")
    return BUILD / "helm"


def kubernetes(*names):
    """Kubernetes' own programs: {name: path}."""
    folder = BUILD / "bin"
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        major, minor, _ = KUBERNETES_VERSION.lstrip("v").split(".")
        base = "k8s.io/component-base/version"
        said = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
        go(f"{', '.join(missing)} {KUBERNETES_VERSION}", HERE / "programs", "build", "-p", "2", "-trimpath", "-ldflags",
           " ".join(["-s -w", *(f"-X {base}.{name}={value}" for name, value in said.items())]),
           "-o", f"{folder}/", *(f"./{name}" for name in missing))
    return {name: folder / name for name in names}


def kube_router():
    binary = BUILD / "bin" / "kube-router"
    if not binary.exists():
        go(f"kube-router {KUBE_ROUTER_VERSION}", ROOT, "install", "-trimpath", "-ldflags", "-s -w",
           f"github.com/cloudnativelabs/kube-router/v2/cmd/kube-router@{KUBE_ROUTER_VERSION}")
        (BUILD / "kube-router").rename(binary)
    return binary


def prometheus_adapter():
    return built("prometheus-adapter", ADAPTER_VERSION, "sigs.k8s.io/prometheus-adapter/cmd/adapter")


def coredns():
    return built("coredns", COREDNS_VERSION, ".")


def built(name, version, package):
    """Of the module in the folder of this name, which pins it."""
    binary = BUILD / "bin" / name
    if not binary.exists():
        go(f"{name} {version}", HERE / name, "build", "-p", "2", "-trimpath", "-ldflags", "-s -w", "-o", str(binary), package)
    return binary


def lws_controller():
    binary = BUILD / "bin" / "lws-controller"
    if not binary.exists():
        go(f"the LeaderWorkerSet controller {LWS_VERSION}", HERE / "lws", "build", "-p", "2", "-trimpath", "-ldflags", "-s -w",
           "-o", str(binary), f"{LWS}/cmd")
    return binary


def lws_file(name):
    """A manifest out of its module, as YAML's documents."""
    copy = BUILD / "lws" / LWS_VERSION / name
    if not copy.exists():
        if shutil.which("go") is None:
            sys.exit(f"no {name} of {LWS}, and no go to fetch it with: install Go 1.24 or later")
        found = subprocess.run(["go", "mod", "download", "-json", LWS], check=True, cwd=HERE / "lws", capture_output=True, text=True)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pathlib.Path(json.loads(found.stdout)["Dir"]) / "config" / name, copy)
    return [document for document in yaml.safe_load_all(copy.read_text()) if document]


def leader_worker_set_kind():
    """Its definition, as its module has it."""
    return lws_file("crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml")[0]
