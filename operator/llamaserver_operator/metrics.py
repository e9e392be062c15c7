"""The operator's Prometheus metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_PREFIX = "llamaserver_operator"
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "reconciles", "Reconciles of objects, by result (ok, error or cancelled).", ["result"],
            namespace=_PREFIX, registry=self.registry,
        )  # fmt: skip
        self.reconcile_duration = Histogram(
            "reconcile_duration_seconds", "Seconds that a reconcile took.",
            namespace=_PREFIX, registry=self.registry, buckets=_BUCKETS,
        )  # fmt: skip
        self.errors = Counter(
            "errors", "Errors, by kind: the error class of a failed reconcile, or lease, watch or resync.", ["kind"],
            namespace=_PREFIX, registry=self.registry,
        )  # fmt: skip
        self.queue_depth = Gauge(
            "queue_depth", "Objects that wait to be reconciled.", namespace=_PREFIX, registry=self.registry
        )
        self.api_requests = Counter(
            "api_requests", "Requests to the API server, by verb, kind and status code. Code 0 means no answer.",
            ["verb", "kind", "code"],
            namespace=_PREFIX, registry=self.registry,
        )  # fmt: skip
        self.is_leader = Gauge(
            "is_leader", "1 while this instance holds the Lease, else 0.", namespace=_PREFIX, registry=self.registry
        )

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
