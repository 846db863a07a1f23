"""A real kube-apiserver with its etcd on loopback, that is asked whether it would take manifests."""
import contextlib
import json
import os
import pathlib
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

ETCD = ("/usr/bin/etcd", "/usr/local/bin/etcd")
READY_S = 120
TOKEN = "operator-of-the-test"  # for a server that lives as long as the test, on loopback


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class ApiServer:
    """Started by `with`; killed and forgotten at its end."""

    def __init__(self, binary: pathlib.Path, folder: pathlib.Path):
        self.binary = binary
        self.folder = folder
        self.processes = []
        self.resources = {}

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()

    def _run(self, name, command):
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))

    def _start(self):
        etcd = next((path for path in ETCD if os.path.exists(path)), None)
        if etcd is None:
            raise RuntimeError("no etcd: deploy/install-deps installs it")
        client, peer, self.port = free_ports(3)
        self._run("etcd", [etcd, "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync",
                           "--listen-client-urls", f"http://127.0.0.1:{client}",
                           "--advertise-client-urls", f"http://127.0.0.1:{client}",
                           "--listen-peer-urls", f"http://127.0.0.1:{peer}"])
        key = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f"{TOKEN},tester,1,system:masters\n")
        self._run("apiserver", [
            str(self.binary), f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1",
            f"--secure-port={self.port}", f"--cert-dir={self.folder}", f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC",
            # Accounts and their tokens are the controller manager's, which does not run.
            "--disable-admission-plugins=ServiceAccount"])
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE  # it made its certificate at its start
        end = time.monotonic() + READY_S
        while True:
            for process in self.processes:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the API server did not start; the end of its log:\n" +
                                       (self.folder / "apiserver.log").read_text()[-2000:])
            with contextlib.suppress(OSError):
                if self.call("GET", "/readyz")[0] == 200:
                    return
            time.sleep(0.3)

    def call(self, method, path, body=None, content="application/json", account=None):
        """(status, what came back, warnings); as a service account, or as one who may everything."""
        impersonated = {} if account is None else {"Impersonate-User": f"system:serviceaccount:{account}"}
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": content, **impersonated})
        try:
            reply = urllib.request.urlopen(request, context=self.context, timeout=30)
        except urllib.error.HTTPError as error:
            reply = error
        with reply:
            text = reply.read().decode(errors="replace")
            try:
                text = json.loads(text)
            except ValueError:
                pass
            return reply.status, text, reply.headers.get_all("Warning") or []

    def version(self):
        return self.call("GET", "/version")[1]["gitVersion"]

    def _resource(self, manifest):
        api, kind = manifest["apiVersion"], manifest["kind"]
        root = f"/api/{api}" if "/" not in api else f"/apis/{api}"
        if api not in self.resources:
            status, found, _ = self.call("GET", root)
            if status != 200:
                raise AssertionError(f"the API server has no {api}")
            self.resources[api] = {r["kind"]: r for r in found["resources"] if "/" not in r["name"]}
        return root, self.resources[api][kind]

    def apply(self, manifest, namespace, dry_run, account=None):
        """Server-side apply; every field must be known. AssertionError with what it says against it. Its warnings."""
        root, resource = self._resource(manifest)
        where = f"/namespaces/{namespace}" if resource["namespaced"] else ""
        query = "?fieldManager=test&fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        path = f"{root}{where}/{resource['name']}/{manifest['metadata']['name']}{query}"
        status, answer, warnings = self.call("PATCH", path, manifest, "application/apply-patch+yaml", account)
        if status not in (200, 201):
            message = answer.get("message") if isinstance(answer, dict) else answer
            raise AssertionError(f"{manifest['kind']} {manifest['metadata']['name']}: {status} {message}")
        return warnings

    def wait_for(self, api):
        """Until a kind that was just defined is served."""
        end = time.monotonic() + 30
        while self.call("GET", f"/apis/{api}")[0] != 200:
            if time.monotonic() > end:
                raise AssertionError(f"{api} is not served")
            time.sleep(0.2)


def custom_kind(group, version, kind, plural):
    """The least definition of somebody else's kind: its fields are not checked."""
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {"group": group, "scope": "Namespaced",
                     "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                     "versions": [{"name": version, "served": True, "storage": True,
                                   "schema": {"openAPIV3Schema": {
                                       "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}
