"""`python -m tests.localcluster up|down|status|env [--folder FOLDER]`: a cluster by hand."""

import argparse
import shlex
import sys
from pathlib import Path

from tools.cache import say

from . import binaries
from .binaries import Missing
from .cluster import Cluster, default_folder


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m tests.localcluster", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "env"))
    parser.add_argument("--folder", type=Path, default=default_folder())
    chosen = parser.parse_args()
    cluster = Cluster(chosen.folder)
    if chosen.command == "up":
        cluster.up()
    elif chosen.command == "down":
        cluster.down()
        say(f"cluster: nothing runs in {cluster.folder}")
    elif not cluster.running:
        sys.exit(f"no cluster runs in {cluster.folder}")
    elif chosen.command == "status":
        print(cluster.kubectl("get", "nodes,pods", "--all-namespaces", "--output=wide"), end="")
    else:  # for eval "$(python -m tests.localcluster env)"
        print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
        print(f"export LLAMASERVER_CLUSTER={shlex.quote(str(cluster.folder))}")
        print(f'export PATH={shlex.quote(str(binaries.kubectl().parent))}:"$PATH"')


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(str(missing))
