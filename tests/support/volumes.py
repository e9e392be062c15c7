"""File systems of their own for tests of full, read-only and broken ones. Needs the right to mount."""

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.lacking import lacking
from tests.support.polling import until

_EXT4_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN


class Volume:
    """A mounted file system. A server may use it meanwhile: what is busy is tried again."""

    def __init__(self, path: Path, *what: str) -> None:
        self.path = path
        self._what = what
        path.mkdir()
        if not self._mount():
            lacking("NOT TESTED: trouble with a volume needs the right to mount one")

    def remount(self, options: str) -> None:
        """Make it `ro` or `rw`."""
        until(lambda: _done("mount", "-o", f"remount,{options}", str(self.path)), f"the volume is {options}")

    def fail(self) -> None:
        """From now on each access is an input/output error (ext4)."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _EXT4_SHUTDOWN, struct.pack("I", 0))
        finally:
            os.close(handle)

    def repair(self) -> None:
        """Mount it anew, with what was on it."""
        until(lambda: _done("umount", str(self.path)), "nobody uses the volume for a moment")
        until(self._mount, "the volume is back")

    def _mount(self) -> bool:
        return _done("mount", *self._what, str(self.path))


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Volume]:
    """One of that size, in memory."""
    with _mounted(path, "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as volume:
        yield volume


@contextmanager
def ext4(path: Path, size: int) -> Iterator[Volume]:
    """One of so many bytes, in a file: it can fail."""
    image = path.with_suffix(".img")
    image.touch()
    os.truncate(image, size)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with _mounted(path, "-o", "loop", str(image)) as volume:
        yield volume


@contextmanager
def _mounted(path: Path, *what: str) -> Iterator[Volume]:
    volume = Volume(path, *what)
    try:
        yield volume
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _done(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
