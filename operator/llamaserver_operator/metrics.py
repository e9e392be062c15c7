"""The operator's Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_PREFIX = "llamaserver_operator"
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """One registry for one process; each name is spelled here only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "reconciles", "Reconciles by result: ok, error or cancelled.", ["result"],
            namespace=_PREFIX, registry=self.registry,
        )  # fmt: skip
        self.reconcile_duration = Histogram(
            "reconcile_duration_seconds", "Duration of one reconcile.",
            namespace=_PREFIX, registry=self.registry, buckets=_BUCKETS,
        )  # fmt: skip
        self.errors = Counter(
            "errors", "Errors by kind: of a reconcile, the Lease, the watch or the health of a part.", ["kind"],
            namespace=_PREFIX, registry=self.registry,
        )  # fmt: skip
        self.queue_depth = Gauge(
            "queue_depth", "Objects that wait for a reconcile.", namespace=_PREFIX, registry=self.registry
        )
        self.api_requests = Counter(
            "api_requests", "Requests to the API server; code 0: no answer.", ["verb", "kind", "code"],
            namespace=_PREFIX, registry=self.registry,
        )  # fmt: skip
        self.is_leader = Gauge(
            "is_leader", "1 while this instance holds the Lease.", namespace=_PREFIX, registry=self.registry
        )

    def exposition(self) -> bytes:
        """The text format 0.0.4."""
        return generate_latest(self.registry)
