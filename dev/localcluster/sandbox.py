"""The namespaces of a cluster: its own network, mounts and processes.

One process holds them. It is process 1 inside, so its end ends all others. No crash leaves a process behind.
"""

import errno
import hashlib
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.polling import until

from . import addresses

# The kubelet writes these files. They belong to the whole machine, so the sandbox has plain files in their place.
SYSCTLS = (
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
)
# Paths that programs have built in, and their places in the cluster's folder.
_PLACES = {"/var/lib/kubelet": "kubelet", "/var/lib/cni": "cni", "/var/log": "log"}


class SandboxError(RuntimeError):
    """The namespaces could not be made or entered."""


@dataclass(frozen=True)
class Sandbox:
    """Namespaces that belong to a folder."""

    folder: Path

    @property
    def cgroups(self) -> list[Path]:
        """The cluster's own group in every cgroup hierarchy."""
        top = Path("/sys/fs/cgroup")
        tops = [top] if (top / "cgroup.controllers").exists() else [path for path in top.iterdir() if path.is_dir()]
        return [path / self.cgroup for path in tops]

    @property
    def cgroup(self) -> str:
        """Name of the cluster's group."""
        return f"llamaserver-{self.folder.name}-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]}"

    @property
    def _holder(self) -> Path:
        """A cgroup for process 1 alone. It is found there after any crash."""
        one = min(self.cgroups)
        return one.with_name(f"{one.name}.holder")

    @property
    def pid(self) -> int | None:
        """The host's process id of process 1, if it runs."""
        try:
            found = (self._holder / "cgroup.procs").read_text().split()
        except FileNotFoundError:
            return None
        return int(found[0]) if found else None

    def start(self) -> None:
        """Make the namespaces."""
        for group in (*self.cgroups, self._holder):
            group.mkdir(exist_ok=True)
        for place in _PLACES.values():
            (self.folder / place).mkdir(parents=True, exist_ok=True)
        ready, log = self.folder / "sandbox.ready", self.folder / "sandbox.log"
        ready.unlink(missing_ok=True)
        script = _script(self.folder, self._holder, ready)
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

    def stop(self) -> None:
        """End everything inside, then remove the cgroups. It is no error when nothing runs."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.pid is None, "the sandbox ended", 30)
        for top in (*self.cgroups, self._holder):
            for folder, _, _ in os.walk(top, topdown=False):
                until(partial(_removed, Path(folder)), f"cgroup {folder} empty", 10)

    def enter(self, command: list[str], *, network: bool = True) -> list[str]:
        """The command line that runs `command` inside. With `network` false, it uses the host's network."""
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


def _script(folder: Path, holder: Path, ready: Path) -> str:
    """The start of process 1. Then it sleeps. It ignores SIGCHLD, so there are no zombies."""
    steps = [f"echo 0 > {holder}/cgroup.procs"]  # 0 means the writing process
    steps += ["mount --make-rshared /", "mount -t tmpfs -o mode=755 tmpfs /run", "mkdir /run/lock"]
    for place, inside in _PLACES.items():
        steps += [f"mkdir -p {place}", f"mount --bind {shlex.quote(str(folder / inside))} {place}"]
    for name in SYSCTLS:
        sysctl = Path("/proc/sys") / name
        copy = folder / "sysctl" / name
        if sysctl.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(sysctl.read_text())
            steps.append(f"mount --bind {shlex.quote(str(copy))} {sysctl}")
    steps += [
        "ip link set lo up",
        # An interface that always exists and leads nowhere. It has the node's address and a default route. Without the
        # route, the address of a Service would be unreachable before its translation.
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
