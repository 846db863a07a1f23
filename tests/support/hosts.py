"""Several hosts on one machine: each a network namespace and an IPC namespace, joined by a bridge.
What runs on different hosts shares no memory and no loopback; a host can be cut off, so that its
packets are dropped and nobody is told. Everything is gone when the process ends, however it ends."""
import ctypes
import os
import pathlib
import signal
import subprocess
import sys

INSIDE = "ENGRAM_INSIDE_HOSTS"
PR_SET_PDEATHSIG = 1


def enter():
    """Runs this program again where its namespaces, mounts and processes are its own: it reaches
    every host. Needs root."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "link", "add", "br0", "type", "bridge"], check=True)
        subprocess.run(["ip", "addr", "add", "10.77.0.254/24", "dev", "br0"], check=True)
        subprocess.run(["ip", "link", "set", "br0", "up"], check=True)
        return
    if os.geteuid() != 0:
        sys.exit("network namespaces need root: run this as root, or in a privileged container")
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child",
                          "--mount-proc", sys.executable, *sys.argv])


def _die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Host:
    _made = 0

    def __init__(self, name, folder, disk_bytes=0):
        """folder: made, for what its processes write; with disk_bytes, a disk of its own."""
        Host._made += 1
        self.name = name
        self.address = f"10.77.0.{Host._made}"
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir()
        if disk_bytes:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_bytes}", "none",
                            str(self.folder)], check=True)
        # Holds the namespaces; /sys must show the host's own network devices.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--ipc", "--mount", "sh", "-c",
             "mount -t sysfs none /sys && exec sleep infinity"], preexec_fn=_die_with_parent)
        comm = pathlib.Path(f"/proc/{self._holder.pid}/comm")
        while comm.read_text() != "sleep\n":
            if self._holder.poll() is not None:
                raise OSError(f"no namespaces for host {name}: unshare ended with {self._holder.returncode}")
        self._port = f"v{Host._made}"
        subprocess.run(["ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth0",
                        "netns", str(self._holder.pid)], check=True)
        subprocess.run(["ip", "link", "set", self._port, "master", "br0", "up"], check=True)
        for command in (["addr", "add", self.address + "/24", "dev", "eth0"],
                        ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            subprocess.run(self.command(["ip", *command]), check=True)

    def command(self, argv):
        return ["nsenter", "--net", "--ipc", "--mount", "--target", str(self._holder.pid), *argv]

    def start(self, argv, log, **popen):
        """Popen of a program on this host; its errors, and its output unless popen says where,
        are appended to the file `log` in the host's folder. nsenter becomes the program: the pid is
        the program's."""
        with open(self.folder / log, "ab") as to:
            return subprocess.Popen(self.command(argv), preexec_fn=_die_with_parent,
                                    stdin=popen.pop("stdin", subprocess.DEVNULL),
                                    stdout=popen.pop("stdout", to), stderr=to, **popen)

    def cut(self):
        """From now on its packets, in and out, are dropped."""
        subprocess.run(["bridge", "link", "set", "dev", self._port, "state", "0"], check=True)

    def mend(self):
        subprocess.run(["bridge", "link", "set", "dev", self._port, "state", "3"], check=True)

    def fill_disk(self):
        """Leaves no free byte on its disk."""
        free = os.statvfs(self.folder)
        with open(self.folder / "fill", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)

    def empty_disk(self):
        (self.folder / "fill").unlink()
