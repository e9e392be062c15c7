"""The container engine of this machine: docker, podman or buildah.

CONTAINER_ENGINE names one. Builds by podman and buildah run in chroot isolation. It needs no cgroups, so it also works
inside a container. These builds see this machine's certificates, but no layer has them.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import system_packages
from .cache import say

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Engine:
    """One engine. Every method runs one command of it."""

    program: str

    @property
    def name(self) -> str:
        """docker, podman or buildah."""
        return Path(self.program).name

    def build_command(self, dockerfile: Path, tag: str, arguments: dict[str, str], context: Path) -> list[str]:
        """The command that builds one image. Unchanged layers come from the engine's cache."""
        command = [self.program, "bud" if self.name == "buildah" else "build", "-f", str(dockerfile), "-t", tag]
        given = dict(arguments)
        if index := os.environ.get("PIP_INDEX_URL"):
            given["PIP_INDEX_URL"] = index
        if self.name != "docker":
            command += ["--isolation", "chroot", "--layers"]
            if CERTIFICATES.exists():
                command += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
                given["PIP_CERT"] = str(CERTIFICATES)
        for key, value in given.items():
            command += ["--build-arg", f"{key}={value}"]
        return [*command, str(context)]

    def build(self, dockerfile: Path, tag: str, arguments: dict[str, str], context: Path) -> None:
        """Build one image or exit."""
        self._run(self.build_command(dockerfile, tag, arguments, context))

    def has(self, image: str) -> bool:
        """Whether the image is here already."""
        kind = "--type=image"
        inspect = ["inspect", kind, image] if self.name == "buildah" else ["image", "inspect", image]
        return subprocess.run([self.program, *inspect], capture_output=True, check=False).returncode == 0

    def pull(self, image: str) -> str:
        """Pull an image. Returns the last line of the engine's error, or "" when it worked."""
        say(f"pulling {image}")
        done = subprocess.run(
            [self.program, "pull", image], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return words[-1] if done.returncode else ""

    def save(self, image: str, archive: Path) -> None:
        """Write the image to an archive that containerd imports as localhost/IMAGE."""
        name = f"localhost/{image}"
        if self.name == "buildah":
            # Uncompressed: the archive stays on this machine, and compression takes longer than the build.
            plain = ["--quiet", "--disable-compression"]
            self._run([self.program, "push", *plain, name, f"docker-archive:{archive}:{name}"])
            return
        if self.name == "docker":  # the others call every local image localhost/
            self._run([self.program, "tag", image, name])
        self._run([self.program, "save", "--output", str(archive), name])

    def push(self, image: str, remote: str) -> None:
        """Push the image to a registry. A registry on this machine is used without TLS."""
        if self.name == "docker":
            self._run([self.program, "tag", image, remote])
            self._run([self.program, "push", remote])
            return
        local = remote.partition("/")[0].partition(":")[0] in {"localhost", "127.0.0.1"}
        plain = ["--tls-verify=false"] if local else []
        self._run([self.program, "push", *plain, image, f"docker://{remote}"])

    def output(self, image: str, *command: str) -> str:
        """What a command prints in a container of this image, which must be here."""
        if self.name != "buildah":
            return self._read(["run", "--rm", "--network", "none", "--entrypoint", command[0], image, *command[1:]])
        container = self._read(["from", "--pull-never", image]).strip()
        try:
            return self._read(["run", "--isolation", "chroot", container, "--", *command])
        finally:
            self._read(["rm", container])

    def _read(self, command: list[str]) -> str:
        done = subprocess.run([self.program, *command], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{self.name} {command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode(errors="replace")

    def _run(self, command: list[str]) -> None:
        # Its progress goes to stderr, like ours.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            sys.exit(f"{self.name} {command[1]} failed with status {done.returncode}")


def engine() -> Engine:
    """The engine to use. Without one, root installs buildah."""
    if chosen := os.environ.get("CONTAINER_ENGINE"):
        return Engine(chosen)
    for name in ("docker", "podman", "buildah"):
        works = shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False)
        if works and works.returncode == 0:
            return Engine(name)
    system_packages.ensure({"buildah": "buildah"})
    return Engine("buildah")
