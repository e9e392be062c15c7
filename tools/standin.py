"""A base image from Debian's packages, for machines that reach no container registry.

It is Debian bookworm as debootstrap makes it, with Python 3.11. `python:*-slim-bookworm` is built on the same system.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import system_packages
from .cache import cache_dir, exclusive, replacing, say
from .container import Engine

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates", "libgomp1")
# Nothing that runs reads these.
_EMPTIED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/info", "usr/share/locale", "usr/share/man")
# debootstrap copies these from the machine.
_REMOVED = ("etc/hostname", "etc/resolv.conf")
_DOCKERFILE = """FROM scratch
ADD rootfs.tar /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""


def key() -> str:
    """A short hash of what the image is made from."""
    everything = [SUITE, *PACKAGES, *_EMPTIED, *_REMOVED, _DOCKERFILE]
    return hashlib.sha256("\n".join(everything).encode()).hexdigest()[:12]


def ensure(engine: Engine) -> str:
    """The name of the image. Its files are made once and kept in the cache."""
    image = f"localhost/llamaserver-base:{SUITE}-{key()}"
    if engine.has(image):
        return image
    place = cache_dir() / "base" / f"{SUITE}-{key()}"
    if not place.exists():
        with exclusive(place):
            if not place.exists():
                _make(place)
    engine.build(place / "Dockerfile", image, {}, place)
    return image


def _make(place: Path) -> None:
    system_packages.ensure({"debootstrap": "debootstrap"})
    if os.geteuid() != 0:
        sys.exit("no container registry can be reached, and debootstrap, which can make a base image, needs root")
    say(f"making a base image from Debian's packages with debootstrap (once, about a minute; log: {place}.log)")
    with replacing(place) as scratch, tempfile.TemporaryDirectory(prefix="debootstrap.", dir="/var/tmp") as root:
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root]
        with Path(f"{place}.log").open("w") as log:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode != 0:
            sys.exit(f"debootstrap failed with status {done.returncode}; its output is in {place}.log")
        for folder in _EMPTIED:
            shutil.rmtree(Path(root, folder))
            Path(root, folder).mkdir()
        for file in _REMOVED:
            Path(root, file).unlink(missing_ok=True)
        Path(root).chmod(0o755)
        pack = ["tar", "--numeric-owner", "--one-file-system", "-C", root, "-cf", str(scratch / "rootfs.tar"), "."]
        subprocess.run(pack, check=True)
        (scratch / "Dockerfile").write_text(_DOCKERFILE)
