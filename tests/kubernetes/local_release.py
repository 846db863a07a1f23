"""A release of the chart as processes on this machine: the commands, arguments and Secrets are those of the
rendered manifests, with addresses and paths of the scratch folder in place of a cluster's."""
import contextlib
import json
import pathlib
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request

from api_server import free_ports

WAIT_S = 60


class LocalRelease:
    """Started by `with`; its processes end with it. `render(values)` gives the manifests of an upgrade."""

    def __init__(self, render, bin_dir, folder, namespace):
        self.render = render
        self.bin_dir = bin_dir
        self.folder = folder
        self.full = "pool-engram-pool"
        self.namespace = namespace
        self.processes = {}
        self.ports = {}
        self.have = folder / "have"
        self.made = folder / "made"
        self.have.mkdir()
        self.made.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self.processes):
            self.stop(name)

    # ---- What a cluster does ----

    def find(self, documents, kind, suffix):
        return next(m for m in documents if m["kind"] == kind and m["metadata"]["name"] == self.full + suffix)

    def port(self, name):
        if name not in self.ports:
            self.ports[name] = free_ports(1)[0]
        return self.ports[name]

    def place(self, pod, secret_of):
        """Text of a container's words with this machine's addresses and paths."""
        service = f"{self.full}-coordinator.{self.namespace}.svc:7000"
        here = [(service, f"127.0.0.1:{self.port('coordinator')}"), ("$(POD_IP):7000", f"127.0.0.1:{self.port('coordinator')}"),
                ("$(POD_IP)", "127.0.0.1"), ("0.0.0.0:7000", f"127.0.0.1:{self.port('coordinator')}"),
                ("0.0.0.0:7001", f"127.0.0.1:{self.port('coordinator-http')}"),
                ("0.0.0.0:7100", f"127.0.0.1:{self.port(pod + '-rows')}"),
                ("0.0.0.0:7101", f"127.0.0.1:{self.port(pod + '-http')}"),
                ("/var/lib/engram", str(self.folder / "state")), ("/made", str(self.made)), ("=/have", f"={self.have}"),
                ("/etc/engram/certs", str(self.have / secret_of))]

        def text(word):
            word = str(word).replace("$(POD_NAME)", pod).replace("$(ENGRAM_ZONE)", "")
            for there, local in here:
                word = word.replace(there, local)
            return word
        return text

    def words(self, pod_spec, pod, container=None):
        container = container or pod_spec["containers"][0]
        secret = next((v["secret"]["secretName"] for v in pod_spec["volumes"] if v["name"] == "certs"), "none")
        text = self.place(pod, secret)
        words = [text(word) for word in container["command"] + container.get("args", [])]
        words[0] = str(self.bin_dir / pathlib.Path(words[0]).name)
        env = {v["name"]: text(v["value"]) for v in container.get("env", []) if "value" in v}
        return words, env

    def run(self, pod_spec, pod, container=None):
        """A container that ends: its exit code and what it said."""
        words, env = self.words(pod_spec, pod, container)
        output = subprocess.run(words, env=env, capture_output=True, text=True, timeout=WAIT_S * 2)
        return output.returncode, output.stdout + output.stderr

    def run_job(self, documents, suffix):
        """Some Jobs' names end with a hash of what they run."""
        job = next(m for m in documents if m["kind"] == "Job" and
                   re.fullmatch(re.escape(self.full + suffix) + "(-[0-9a-f]{8})?", m["metadata"]["name"]))
        return self.run(job["spec"]["template"]["spec"], "job")

    def start(self, pod_spec, pod):
        words, env = self.words(pod_spec, pod)
        with open(self.folder / f"{pod}.log", "wb") as log:
            self.processes[pod] = subprocess.Popen(words, env=env, stdout=log, stderr=log)

    def stop(self, pod):
        process = self.processes.pop(pod)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()

    def make_secrets(self, documents):
        """The certificates' Job, and what kubectl and the mounts do with its manifest."""
        pod = self.find(documents, "Job", "-certs-hook")["spec"]["template"]["spec"]
        said = ""
        for container in pod["initContainers"]:
            code, text = self.run(pod, "job", container)
            assert code == 0, text
            said += text
        for manifest in self.made.glob("*.json"):
            for secret in json.loads(manifest.read_text())["items"]:
                folder = self.have / secret["metadata"]["name"]
                folder.mkdir(exist_ok=True)
                for name, text in secret["stringData"].items():
                    (folder / name).write_text(text)
        return said

    # ---- What a kubelet and Prometheus ask ----

    def get(self, port, path, certificate=None, server_name=None):
        """(status, text) over HTTPS; the server's name is checked where it is given."""
        context = ssl.create_default_context(cafile=None if server_name is None else
                                             str(self.have / f"{self.full}-metrics-tls" / "ca.crt"))
        context.check_hostname = False
        if server_name is None:
            context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            folder = self.have / f"{self.full}-{certificate}-tls"
            context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        if server_name is not None:
            context.check_hostname = True
            wrap = context.wrap_socket
            context.wrap_socket = lambda *a, **k: wrap(*a, **dict(k, server_hostname=server_name))
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{port}{path}", context=context, timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_probe(self, pod, port):
        end = time.monotonic() + WAIT_S
        said = "nothing"
        while time.monotonic() < end:
            assert self.processes[pod].poll() is None, (self.folder / f"{pod}.log").read_text()[-2000:]
            with contextlib.suppress(OSError):
                status, said = self.get(port, "/readyz")
                if status == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(f"{pod} is not ready: {said}")


def check_release(render, bin_dir, test_data, folder, namespace):
    """Install, test, renew, scale in. Returns what to print; AssertionError on the first thing that is wrong."""
    model = folder / "model"
    made = subprocess.run([bin_dir / "engramctl", "make-model", "--out", model, "--tokenizer",
                           test_data / "tiny_tokenizer.json", "--base-rows", "500", "--layers-engram", "1,3",
                           "--tables-only"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (folder / "state").mkdir()
    values = [f"model.path={model}", "memoryNodes.memory=64Mi"]
    documents = render(values)
    with LocalRelease(render, bin_dir, folder, namespace) as release:
        release.make_secrets(documents)
        coordinator = release.find(documents, "StatefulSet", "-coordinator")["spec"]["template"]["spec"]
        memory = release.find(documents, "StatefulSet", "-memory")["spec"]
        pods = [f"{release.full}-memory-{i}" for i in range(memory["replicas"])]
        release.start(coordinator, "coordinator")
        for pod in pods:
            release.start(memory["template"]["spec"], pod)
        release.wait_probe("coordinator", release.port("coordinator-http"))
        code, said = release.run_job(documents, "-first-version")
        assert code == 0 and "version 1 created" in said, said
        for pod in pods:
            release.wait_probe(pod, release.port(pod + "-http"))
        test = release.find(documents, "Pod", "-test-read")["spec"]
        code, said = release.run(test, "test")
        assert code == 0 and " 0 wrong, 0 could not be had" in said, said
        rows = said.split(" rows verified")[0].split()[-1]

        # What runs again changes nothing.
        code, said = release.run_job(documents, "-first-version")
        assert code == 0 and "there is a version already" in said, said
        assert "made anew: none" in release.make_secrets(documents)

        # What Prometheus is told to show, and whom it expects.
        for name, port in ((f"{release.full}-coordinator", release.port("coordinator-http")),
                           (f"{release.full}-memory", release.port(pods[0] + "-http"))):
            status, page = release.get(port, "/metrics", "metrics", name)
            assert status == 200, page
            assert release.get(port, "/metrics")[0] in (401, 403), "metrics without a certificate"
        page = release.get(release.port("coordinator-http"), "/metrics", "metrics", f"{release.full}-coordinator")[1]
        assert "engram_coordinator_desired_memory_nodes 3" in page, page

        # Other sets of nodes, with nothing to go to meanwhile: refused before anything is drained.
        code, said = release.run_job(render(values + ["memoryNodes.zones={a,b}"]), "-scale-in")
        assert code == 1 and "nothing was drained: no node that takes slots would be left" in said, said

        # Fewer nodes: an upgrade whose hook drains the last, a pod less, and the hook afterwards.
        fewer = render(values + ["memoryNodes.replicas=2"])
        code, said = release.run_job(fewer, "-scale-in")
        assert code == 0 and f"{pods[2]} hold nothing any more" in said, said
        release.stop(pods[2])
        code, said = release.run_job(fewer, "-forget-nodes")
        assert code == 0 and f"{pods[2]} are forgotten" in said, said
        code, said = release.run(test, "test")
        assert code == 0, said
        return f"as processes: installed, {rows} rows verified, hooks run again, scaled in from 3 to 2"
