"""A real one-node Kubernetes on this machine, for the tests and the demo; nothing of it shows on the host.

`Cluster(folder).up()` starts it, `down()` leaves nothing behind; `python -m dev.localcluster` does both by hand.
"""

from .cluster import Cluster

__all__ = ["Cluster"]
