"""`python -m dev.localcluster up|down|status|env [--folder FOLDER]`: a cluster by hand.

`prepare` only gets the programs, so that a later start is short. When something is missing, it prints one line.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from tools.cache import say

from . import binaries
from .binaries import Missing
from .cluster import Cluster, folder_named
from .prepare import prepare, required


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m dev.localcluster", description="A real one-node Kubernetes.")
    parser.add_argument("command", choices=("prepare", "up", "down", "status", "env"))
    parser.add_argument("--folder", type=Path, default=os.environ.get("LLAMASERVER_CLUSTER") or folder_named("dev"))
    chosen = parser.parse_args()
    cluster = Cluster(chosen.folder)
    if chosen.command == "prepare":
        prepare()
        binaries.helm(3)  # only tests use these
        binaries.scrape_config()
        binaries.prometheus()
    elif chosen.command == "up":
        cluster.up()
    elif chosen.command == "down":
        cluster.down()
        say(f"cluster: nothing runs in {cluster.folder}")
    elif not cluster.running:
        sys.exit(f"no cluster runs in {cluster.folder}")
    elif chosen.command == "status":
        print(cluster.kubectl("get", "nodes,pods", "--all-namespaces", "--output=wide"), end="")
    else:  # for eval "$(python -m dev.localcluster env)"
        print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
        print(f"export LLAMASERVER_CLUSTER={shlex.quote(str(cluster.folder))}")
        print(f'export PATH={shlex.quote(str(binaries.kubectl().parent))}:"$PATH"')


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        say(f"NO LOCAL CLUSTER: {missing}")
        sys.exit(0 if sys.argv[1:2] == ["prepare"] and not required() else 1)
