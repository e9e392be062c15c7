"""Real faults in the processes of a cluster's pods, from this machine."""

import os
from pathlib import Path

from dev.localcluster.kubectl import Object


def processes(pod: Object, word: str) -> list[int]:
    """Processes of a pod whose command line has a word."""
    uid = pod["metadata"]["uid"]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            groups, line = (folder / "cgroup").read_text(), (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if (uid in groups or uid.replace("-", "_") in groups) and word.encode() in line:
            found.append(int(folder.name))
    return found


def segfault(pid: int) -> None:
    """Destroy the code that the main thread returns to from its system call: the kernel ends the process for it.

    A signal that is only sent would be ignored by process 1 of a container.
    """
    while (told := Path(f"/proc/{pid}/syscall").read_text().split())[0] in ("running", "-1"):
        os.sched_yield()
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        memory.seek(int(told[-1], 16))
        memory.write(bytes(16))
