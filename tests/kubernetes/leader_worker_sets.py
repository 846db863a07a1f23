"""The LeaderWorkerSet controller on the one-machine cluster: its definition of the kind, its webhooks and itself, of its own module."""
import base64
import socket
import subprocess

import yaml

import go_programs

PORT = 9443


def files():
    """Fetched where there is a network; afterwards they are in the build folder."""
    return [go_programs.leader_worker_set_kind(), *go_programs.lws_file("webhook/manifests.yaml")]


def _webhooks(ca_pem):
    """As the module has them, but reached by an address: the controller is a process beside the API server, not a pod."""
    for manifest in go_programs.lws_file("webhook/manifests.yaml"):
        for webhook in manifest["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{PORT}{path}", "caBundle": base64.b64encode(ca_pem).decode()}
        manifest["metadata"]["name"] = f"lws-{manifest['metadata']['name']}"
        yield manifest


def _listens():
    socket.create_connection(("127.0.0.1", PORT), 1).close()
    return True


def start(machine, binary):
    """The kind, then the controller, then the webhooks, which fail every pod's creation while it does not answer."""
    folder = machine.folder / "lws"
    folder.mkdir()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lws",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"],
                   check=True, capture_output=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({
        "apiVersion": "config.lws.x-k8s.io/v1alpha1", "kind": "Configuration", "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False}, "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": "127.0.0.1:8081"},
        "webhook": {"port": PORT, "host": "127.0.0.1", "certDir": str(folder)}}))
    machine.kubectl("apply", "--server-side", "--filename", "-", text=yaml.safe_dump(go_programs.leader_worker_set_kind()))
    machine.wait("the kind LeaderWorkerSet", lambda: machine.get("leaderworkersets", "--all-namespaces"))
    machine.run("lws-controller", binary, f"--config={config}", f"--kubeconfig={machine.kubeconfig}")
    machine.wait("the LeaderWorkerSet controller", _listens)
    machine.apply(*_webhooks((folder / "tls.crt").read_bytes()))
