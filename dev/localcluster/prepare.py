"""The programs that a cluster and the product need: installed, fetched or compiled."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from tools import build, images, model, system_packages

from . import binaries
from .binaries import Missing


def prepare() -> None:
    """Get every program of a cluster. Raises Missing."""
    _check_machine()
    _programs()


def prepare_demo() -> None:
    """Get everything for the demo. The cluster's programs and our images are made at the same time.

    Raises Missing, or SystemExit when a build fails. The first failure ends the other builds.
    """
    _check_machine()
    # llama.cpp takes longest. What needs no compiler fits beside it.
    at_once(_programs, lambda: images.prepare(images.SERVER), lambda: images.prepare(images.OPERATOR), model.ensure)


def at_once(*works: Callable[[], object]) -> None:
    """Do several works at the same time. Raises the first failure, after the other builds have ended."""
    with ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(work) for work in works]
        try:
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            for work in done:
                work.result()
        except BaseException:
            build.stop_builds()
            raise


def _programs() -> None:
    try:
        system_packages.ensure(system_packages.CLUSTER_PROGRAMS)
    except SystemExit as error:
        raise Missing(str(error)) from None
    for name in binaries.SERVERS:
        binaries.server(name)
    binaries.coredns()
    binaries.kubectl()
    binaries.helm()


def _check_machine() -> None:
    if not sys.platform.startswith("linux"):
        raise Missing(f"a Kubernetes node needs Linux, this is {sys.platform}")
    if os.geteuid() != 0:
        raise Missing("a Kubernetes node needs root: run this as root, in a virtual machine if you like")


def required() -> bool:
    """Whether REQUIRE_CLUSTER=1 is set. A machine that cannot run a cluster is a failure then, not a reason to skip."""
    return os.environ.get("REQUIRE_CLUSTER") == "1"
