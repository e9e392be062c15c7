"""Programs from the system, not from the lock. Missing ones are installed by apt as root, else the user is told how.

`python -m tools.system_packages test` gets the programs that the tests use.
"""

import os
import shutil
import subprocess
import sys

from .cache import cache_dir, exclusive, say

_WAIT_SECONDS = 600  # a fresh machine updates itself first

# program -> its Debian package
TEST_PROGRAMS = {
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "node": "nodejs",
    "jq": "jq",
    "curl": "curl",
    "openssl": "openssl",
    "buildah": "buildah",
    "docker-registry": "docker-registry",
    "objdump": "binutils",
}
# What a Kubernetes node is made of; dev/localcluster brings the rest.
CLUSTER_PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "nft": "nftables",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "openssl": "openssl",
}


def missing_from(programs: dict[str, str]) -> list[str]:
    """The packages of missing programs."""
    return [package for program, package in programs.items() if not shutil.which(program)]


def ensure(programs: dict[str, str]) -> None:
    """Install the packages of missing programs. Without root, exit with the command to run."""
    if missing_from(programs):
        with exclusive(cache_dir() / "apt" / "packages"):  # apt-get fails where another one works
            _install(programs)


def _install(programs: dict[str, str]) -> None:
    missing = missing_from(programs)
    if not missing:
        return
    wait = f"--option=DPkg::Lock::Timeout={_WAIT_SECONDS}"
    install = ["apt-get", "install", "-y", "--no-install-recommends", wait, *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"missing programs; on Debian or Ubuntu: sudo apt-get install -y {' '.join(missing)}")
    log = cache_dir() / "apt" / "install.log"
    say(f"installing system packages: {' '.join(missing)} (log: {log})")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with log.open("w") as out:
        for command in (["apt-get", "update", "-q"], install):
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
            if done.returncode != 0:
                say(log.read_text(errors="replace")[-2000:])
                sys.exit(f"{' '.join(command)} failed with status {done.returncode}; its output is in {log}")
    if still := [program for program in programs if not shutil.which(program)]:
        sys.exit(f"installed, but not found on PATH: {', '.join(still)}")


if __name__ == "__main__":
    if sys.argv[1:] != ["test"]:
        sys.exit("usage: python -m tools.system_packages test")
    ensure(TEST_PROGRAMS)
