"""The real operator around a writing reconcile: `python -m tests.support.operator.writing_operator FLAGS`.

For an object NAME it counts in the ConfigMap NAME-written, and comes again at once while that has "again" in its data;
"slow" there is the seconds that it takes between reading and writing. "monitors" tells whether it found
ServiceMonitors served.
"""

import asyncio
import os
import sys

from llamaserver_operator import logs
from llamaserver_operator.cluster import Cluster
from llamaserver_operator.config import Config, parse
from llamaserver_operator.kinds import CONFIG_MAP, SERVICE_MONITOR
from llamaserver_operator.podreader import PodReader
from llamaserver_operator.runtime import Operator

_AGAIN = 0.05


class Writer:
    """Writes as often as it is allowed to."""

    def __init__(self, cluster: Cluster, config: Config, pods: PodReader) -> None:
        self._cluster = cluster
        self._identity = config.identity

    async def reconcile(self, namespace: str, name: str) -> float | None:
        monitors = await self._cluster.serves(SERVICE_MONITOR)
        found = await self._cluster.get(CONFIG_MAP, namespace, f"{name}-written") or {}
        data = found.get("data", {})
        await asyncio.sleep(float(data.get("slow", 0)))
        count = int(data.get("count", 0)) + 1
        metadata = {"namespace": namespace, "name": f"{name}-written"}
        written = {"count": str(count), "by": self._identity, "monitors": str(monitors)}
        await self._cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": written})
        return _AGAIN if "again" in data else None


if __name__ == "__main__":
    config = parse(sys.argv[1:], os.environ)
    logs.configure(config)
    code = asyncio.run(Operator(config, Writer).run())
    sys.stdout.flush()
    os._exit(code)
