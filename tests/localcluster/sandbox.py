"""The namespaces a cluster lives in: network, mounts and processes of its own.

One process holds them. It is process 1 in there, so its end ends everything: no crash leaves a stray behind.
"""

import errno
import hashlib
import json
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.polling import until

from . import addresses

# The kubelet writes these; all are the whole machine's. In the sandbox they are plain files.
_SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
# Places that programs have built in, and where in the cluster's folder they lie instead.
_PLACES = {"/var/lib/kubelet": "kubelet", "/var/lib/cni": "cni", "/var/log": "log"}


class SandboxError(RuntimeError):
    """The namespaces could not be made or entered."""


@dataclass(frozen=True)
class Sandbox:
    """Namespaces that belong to a folder; the folder also remembers which process holds them."""

    folder: Path

    @property
    def _state(self) -> Path:
        return self.folder / "sandbox.json"

    @property
    def cgroups(self) -> list[Path]:
        """The cluster's own group in every cgroup hierarchy."""
        top = Path("/sys/fs/cgroup")
        tops = [top] if (top / "cgroup.controllers").exists() else [t for t in top.iterdir() if t.is_dir()]
        return [t / self.cgroup for t in tops if t.name != "unified"]

    @property
    def cgroup(self) -> str:
        """Name of the cluster's group."""
        return f"llamaserver-{self.folder.name}-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]}"

    @property
    def pid(self) -> int | None:
        """The holder's process id as the host sees it, if it lives."""
        if not self._state.exists():
            return None
        state = json.loads(self._state.read_text())
        return state["pid"] if _born(state["pid"]) == state["born"] else None

    def start(self) -> None:
        """Make the namespaces."""
        for group in self.cgroups:
            group.mkdir(exist_ok=True)
        for place in _PLACES.values():
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        ready, log = self.folder / "sandbox.ready", self.folder / "sandbox.log"
        ready.unlink(missing_ok=True)
        script = _script(self.folder, ready)
        with log.open("wb") as out:
            parent = subprocess.Popen(
                ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-euc", script],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        until(lambda: ready.exists() or parent.poll() is not None, "namespaces made", 10)
        if parent.poll() is not None:
            raise SandboxError(f"cannot make namespaces: {log.read_text().strip()}")
        pid = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
        self._state.write_text(json.dumps({"pid": pid, "born": _born(pid)}))

    def stop(self) -> None:
        """End everything inside, then remove the cgroups; fine when nothing runs."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
            until(lambda: _born(pid) is None, "the sandbox ended", 30, pause=0.02)
        self._state.unlink(missing_ok=True)
        for top in self.cgroups:
            for folder, _, _ in os.walk(top, topdown=False):
                until(partial(_removed, Path(folder)), f"cgroup {folder} empty", 10)

    def enter(self, command: list[str], *, network: bool = True) -> list[str]:
        """The command line that runs `command` inside, on the host's network if `network` is false."""
        if (pid := self.pid) is None:
            raise SandboxError(f"no cluster runs in {self.folder}")
        namespaces = ["--mount", "--pid", *(["--net"] if network else [])]
        return ["nsenter", f"--target={pid}", *namespaces, "--", *command]

    @property
    def network(self) -> Path:
        """The network namespace, as a file."""
        if (pid := self.pid) is None:
            raise SandboxError(f"no cluster runs in {self.folder}")
        return Path(f"/proc/{pid}/ns/net")


def _script(folder: Path, ready: Path) -> str:
    """What process 1 does first; then it sleeps and, ignoring SIGCHLD, leaves no zombies."""
    steps = ["mount --make-rshared /", "mount -t tmpfs -o mode=755 tmpfs /run", "mkdir /run/lock"]
    for place, inside in _PLACES.items():
        steps += [f"mkdir -p {place}", f"mount --bind {shlex.quote(str(folder / inside))} {place}"]
    for name in _SYSCTLS:
        sysctl = Path("/proc/sys") / name
        copy = folder / "sysctl" / name
        if sysctl.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(sysctl.read_text())
            steps.append(f"mount --bind {shlex.quote(str(copy))} {sysctl}")
    steps += [
        "ip link set lo up",
        # An interface that always exists and leads nowhere: the node's address, and a default
        # route, without which a Service's address is unreachable before it could be translated.
        "ip link add node0 type bridge",
        f"ip address add {addresses.NODE}/24 dev node0",
        "ip link set node0 up",
        "ip route add default dev node0",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        f"touch {shlex.quote(str(ready))}",
        "trap '' CHLD",
        "exec sleep infinity",
    ]
    return "\n".join(steps)


def _born(pid: int) -> int | None:
    """When a process started, in ticks after boot: tells it from a later one with its id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(rest[18])


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False  # processes in it are still ending
    return True
