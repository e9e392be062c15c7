"""A real Kubernetes with one node on this machine, for the tests and the demo. It changes nothing on the host.

`Cluster(folder).up()` starts it, and `down()` removes all of it. `python -m dev.localcluster` does both by hand.
"""

from .cluster import Cluster

__all__ = ["Cluster"]
