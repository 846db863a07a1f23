"""A Kubernetes cluster of one node on this machine: etcd, the control plane, containerd, a kubelet, kube-proxy and CoreDNS, each a
real process, all in namespaces of their own (network, mounts, processes). Nothing of it reaches further than
this machine or outlives the process that started it. docs/decisions/0035-cluster-test.md says why it is as it is."""
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

import yaml

INSIDE = "ENGRAM_INSIDE_CLUSTER"
NODE = "engram-node"
NODE_ADDRESS = "10.97.0.1"
SERVICES = "10.96.0.0/16"
PODS = "10.98.0.0/16"
DOMAIN = "cluster.local"
TOKEN = "operator-of-the-test"  # for a server that lives as long as the test, in a network of its own
CGROUPS = pathlib.Path("/sys/fs/cgroup")
CGROUP = "engram-kubernetes"
PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
NEEDED = {"containerd": "containerd", "runc": "runc", "etcd": "etcd-server", "iptables": "iptables", "ip": "iproute2",
          "unshare": "util-linux", "openssl": "openssl"}
READY_S = 120
PR_SET_PDEATHSIG = 1
# What a kubelet would set for the whole machine: it is shown these values, and so changes nothing.
KERNEL = {"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
          "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"}


def missing():
    """Debian packages that are not there."""
    packages = {package for program, package in NEEDED.items() if shutil.which(program) is None}
    if not any(pathlib.Path(folder, "ptp").exists() for folder in PLUGINS):
        packages.add("containernetworking-plugins")
    return sorted(packages)


def enter():
    """Runs this program again where its namespaces, mounts and processes are its own. Needs root."""
    if not inside():
        os.environ[INSIDE] = os.readlink("/proc/self/ns/pid")
        os.execvp("unshare", ["unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
                              sys.executable, *sys.argv])
    # As the first process of its namespace it is sent nothing that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for folder in ("/run", "/var/log", "/var/lib"):
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    # containerd binds network namespaces there, and a kubelet's volumes: what is shared is shared inside only.
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    socket.sethostname(NODE)
    for words in (["link", "set", "lo", "up"], ["link", "add", "node0", "type", "bridge"],
                  ["addr", "add", f"{NODE_ADDRESS}/24", "dev", "node0"], ["link", "set", "node0", "up"],
                  ["route", "add", SERVICES, "dev", "node0"]):
        subprocess.run(["ip", *words], check=True)


def inside():
    """Whether this is the first process of the namespaces that enter() makes: what it mounts and kills is its own then.
    The variable alone would not do: whoever had it set would lose every process of the machine."""
    outer = os.environ.get(INSIDE)
    return outer is not None and os.getpid() == 1 and os.readlink("/proc/self/ns/pid") != outer


def remove_cgroups():
    """What pods left in every hierarchy, the deepest first."""
    for root in [CGROUPS, *(p for p in CGROUPS.iterdir() if p.is_dir())]:
        if (root / "cgroup.procs").exists() and (root / CGROUP).is_dir():
            for folder, _, _ in os.walk(root / CGROUP, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Failed(Exception):
    """Something did not come about; the message says what, and where its log is."""


class OneMachine:
    """Started by `with`, inside the namespaces of enter().
    programs: of Kubernetes and CoreDNS, {name: path}; folder: for all it writes; images: archives for containerd."""

    def __init__(self, programs, folder, images):
        self.programs = programs
        self.folder = folder
        self.images = images
        self.processes = {}
        self.kubeconfig = folder / "kubeconfig"
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE  # it made its certificate at its start

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # containerd's shims outlive it, so that containers do: they are this process's children now.
        for name in ("kubelet", "containerd", *reversed(self.processes)):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        own = os.getpid()
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != own and inside():
                with contextlib.suppress(OSError):
                    os.kill(int(entry.name), signal.SIGKILL)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            if not any(e.name.isdigit() and int(e.name) != own for e in pathlib.Path("/proc").iterdir()):
                break
            time.sleep(0.05)
        remove_cgroups()

    # ---- What people use ----

    def kubectl(self, *words, check=True, timeout=600, text=None):
        """What it printed. Failed with what it said."""
        output = subprocess.run([self.programs["kubectl"], "--kubeconfig", self.kubeconfig, *words], input=text,
                                capture_output=True, text=True, timeout=timeout)
        if check and output.returncode != 0:
            raise Failed(f"kubectl {' '.join(map(str, words))}: {output.stderr.strip()}")
        return output.stdout

    def get(self, *words):
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def apply(self, *manifests):
        self.kubectl("apply", "--filename", "-", text=yaml.safe_dump_all(manifests))

    def version(self):
        return self.get_json("/version")["gitVersion"]

    def get_json(self, path):
        request = urllib.request.Request(f"https://127.0.0.1:6443{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, context=self.context, timeout=10) as reply:
            return json.loads(reply.read())

    # ---- Its start ----

    def run(self, name, *command, **options):
        """Starts what runs until the cluster ends."""
        self._check()
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=self.folder,
                                                    stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, **options)

    def _check(self):
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = self.folder / f"{name}.log"
                raise Failed(f"{name} ended with {process.returncode}: {log}\n{log.read_text(errors='replace')[-2000:]}")

    def wait(self, what, ready):
        end = time.monotonic() + READY_S
        while True:
            self._check()
            with contextlib.suppress(OSError, ValueError, Failed, subprocess.CalledProcessError):
                if ready():
                    return
            if time.monotonic() > end:
                raise Failed(f"{what} is not ready after {READY_S} s: logs are in {self.folder}")
            time.sleep(0.2)

    def _start(self):
        remove_cgroups()
        self._show_kernel_settings()
        self._start_containerd()
        self._start_control_plane()
        self._start_node()

    def _show_kernel_settings(self):
        folder = self.folder / "kernel"
        folder.mkdir()
        for name, value in KERNEL.items():
            path = pathlib.Path("/proc/sys") / name
            if path.exists() and path.read_text().strip() != value:
                shown = folder / name.replace("/", ".")
                shown.write_text(value + "\n")
                subprocess.run(["mount", "--bind", shown, path], check=True)

    def _start_containerd(self):
        plugins = next(folder for folder in PLUGINS if pathlib.Path(folder, "ptp").exists())
        networks = self.folder / "net.d"
        networks.mkdir()
        (networks / "10-pods.conflist").write_text(json.dumps({
            "cniVersion": "0.4.0", "name": "pods", "plugins": [{
                "type": "ptp", "mtu": 1500, "ipMasq": False,
                "ipam": {"type": "host-local", "dataDir": str(self.folder / "addresses"),
                         "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}},
                # As docs/OPERATIONS.md wants it of hosts: a new network namespace has the first one's, here bbr.
                {"type": "tuning", "sysctl": {"net.ipv4.tcp_congestion_control": "cubic"}}]}))
        config = self.folder / "containerd.toml"
        config.write_text(f'''version = 2
root = "{self.folder}/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.folder}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "engram-test-pause:1"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
''')
        self.run("containerd", "containerd", "--config", config)
        self.wait("containerd", lambda: self.ctr("version"))
        for archive in self.images:
            self.ctr("images", "import", "--no-unpack", str(archive))

    def ctr(self, *words):
        output = subprocess.run(["ctr", "--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io", *words],
                                capture_output=True, text=True)
        if output.returncode != 0:
            raise Failed(f"ctr {' '.join(words)}: {output.stderr.strip()}")
        return output.stdout or " "

    def _start_control_plane(self):
        self.run("etcd", "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync",
                  "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
                  "--listen-peer-urls", "http://127.0.0.1:2380")
        key = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f"{TOKEN},tester,1,system:masters\n")
        self.kubeconfig.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": "https://127.0.0.1:6443", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}))
        certificates = self.folder / "server"
        self.run("apiserver", self.programs["kube-apiserver"], "--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443",
                  f"--advertise-address={NODE_ADDRESS}", f"--cert-dir={certificates}", f"--token-auth-file={tokens}",
                  "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
                  f"--service-account-signing-key-file={key}", f"--service-cluster-ip-range={SERVICES}",
                  "--authorization-mode=RBAC", "--kubelet-preferred-address-types=InternalIP", "--event-ttl=24h")
        self.wait("the API server", lambda: urllib.request.urlopen(urllib.request.Request(
            "https://127.0.0.1:6443/readyz", headers={"Authorization": f"Bearer {TOKEN}"}), context=self.context, timeout=5))
        self.run("controller-manager", self.programs["kube-controller-manager"], f"--kubeconfig={self.kubeconfig}",
                  "--leader-elect=false", "--bind-address=127.0.0.1", f"--service-account-private-key-file={key}",
                  f"--root-ca-file={certificates / 'apiserver.crt'}")
        self.run("scheduler", self.programs["kube-scheduler"], f"--kubeconfig={self.kubeconfig}", "--leader-elect=false",
                  "--bind-address=127.0.0.1")

    def _start_node(self):
        corefile = self.folder / "Corefile"
        # As kubeadm sets it up, times included; nothing is asked of anybody else.
        corefile.write_text(f'''.:53 {{
  bind {NODE_ADDRESS}
  errors
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {self.kubeconfig}
    pods insecure
    ttl 30
  }}
  cache 30
}}
''')
        self.run("coredns", self.programs["coredns"], "-conf", corefile)
        proxy = self.folder / "proxy.yaml"
        proxy.write_text(yaml.safe_dump({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
            "clientConnection": {"kubeconfig": str(self.kubeconfig)}, "clusterCIDR": PODS, "hostnameOverride": NODE,
            "bindAddress": NODE_ADDRESS, "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
            "oomScoreAdj": 0, "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}}))
        for name in ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "hugetlb",
                     "net_cls", "net_prio", "perf_event"):
            if (CGROUPS / name).is_dir():
                (CGROUPS / name / CGROUP).mkdir(exist_ok=True)
        for name in ("cpus", "mems"):
            (CGROUPS / "cpuset" / CGROUP / f"cpuset.{name}").write_text((CGROUPS / "cpuset" / f"cpuset.{name}").read_text())
        config = self.folder / "kubelet.yaml"
        config.write_text(yaml.safe_dump({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS, "healthzBindAddress": "127.0.0.1",
            # Whoever is in this network namespace is the test.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{CGROUP}", "failCgroupV1": False, "failSwapOn": False,
            "clusterDNS": [NODE_ADDRESS], "clusterDomain": DOMAIN, "resolvConf": "",
            "podLogsDir": str(self.folder / "pods"), "containerLogMaxSize": "500Mi",
            "oomScoreAdj": 0,
            # The disk is this machine's: how full it is is not the test's matter.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99}))
        self.run("kubelet", self.programs["kubelet"], f"--config={config}", f"--kubeconfig={self.kubeconfig}",
                  f"--root-dir={self.folder / 'kubelet'}", f"--cert-dir={self.folder / 'kubelet-certs'}",
                  f"--node-ip={NODE_ADDRESS}", f"--hostname-override={NODE}", "--node-labels=topology.kubernetes.io/zone=here")
        self.wait("the node", self._node_ready)
        self.run("kube-proxy", self.programs["kube-proxy"], f"--config={proxy}")
        self.wait("the default account", lambda: self.get("serviceaccount", "default"))

    def _node_ready(self):
        conditions = self.get("node", NODE)["status"]["conditions"]
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
