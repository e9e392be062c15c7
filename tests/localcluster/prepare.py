"""Whether this machine can run a cluster: what is missing is installed, built, or told in one line."""

import os
import sys

from tools import system_packages

from . import binaries
from .binaries import Missing


def prepare() -> None:
    """Have every program ready; raises Missing."""
    if not sys.platform.startswith("linux"):
        raise Missing(f"a Kubernetes node needs Linux, this is {sys.platform}")
    if os.geteuid() != 0:
        raise Missing("a Kubernetes node needs root: run this as root, in a virtual machine if you like")
    try:
        system_packages.ensure(system_packages.CLUSTER_PROGRAMS)
    except SystemExit as error:
        raise Missing(str(error)) from None
    for name in binaries.SERVERS:
        binaries.server(name)
    binaries.coredns()
    binaries.kubectl()
    binaries.helm()


def required() -> bool:
    """REQUIRE_CLUSTER=1: a machine that cannot run one is a failure, not a reason to skip."""
    return os.environ.get("REQUIRE_CLUSTER") == "1"
