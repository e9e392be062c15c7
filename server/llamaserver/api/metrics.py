"""Prometheus metrics, collected from the engine's snapshot at each request.

The help texts are also those of docs/reference/metrics.md, which a test compares.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine.snapshot import Counters, Histogram, Snapshot
from ..errors import NotSupported
from ..kvstore.messages import StoreStats
from .connections import Counts
from .context import CONTEXT, Context
from .tenants import key_of
from .traffic import Traffic

S = TypeVar("S")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Row(Generic[S, V]):
    """One metric: its name (that of a counter without _total), its help, and its value."""

    name: str
    text: str
    value: Callable[[S], V]


def _overhead(counters: Counters) -> float:
    return max(0.0, counters.step_seconds_total - counters.decode_seconds_total)


def _usage(snapshot: Snapshot) -> float:
    return snapshot.kv_cells_used / snapshot.kv_cells_total if snapshot.kv_cells_total else 0.0


def _busy_slots(snapshot: Snapshot) -> float:
    counters = snapshot.counters
    return counters.busy_slots_total / counters.decode_total if counters.decode_total else 0.0


COUNTERS: tuple[_Row[Counters, float], ...] = (
    _Row("llamacpp:prompt_tokens", "Number of prompt tokens processed.", lambda c: c.prompt_tokens_total),
    _Row("llamacpp:prompt_seconds", "Seconds spent on processing prompts.", lambda c: c.prompt_seconds_total),
    _Row(
        "llamacpp:prompt_tokens_cached",
        "Number of prompt tokens taken from the KV cache or the KV store.",
        lambda c: c.prompt_tokens_cached_total,
    ),
    _Row("llamacpp:tokens_predicted", "Number of generation tokens processed.", lambda c: c.tokens_predicted_total),
    _Row(
        "llamacpp:tokens_predicted_seconds", "Seconds spent on generation.", lambda c: c.tokens_predicted_seconds_total
    ),
    _Row("llamacpp:n_decode", "Number of calls of llama_decode.", lambda c: c.decode_total),
    _Row("llamacpp:n_busy_slots", "Sum over all decodes of the slots in the batch.", lambda c: c.busy_slots_total),
    _Row("llamaserver:decode_seconds", "Seconds spent in llama_decode.", lambda c: c.decode_seconds_total),
    _Row("llamaserver:step_seconds", "Seconds spent in engine steps, decode included.", lambda c: c.step_seconds_total),
    _Row(
        "llamaserver:preemptions",
        "Requests preempted to free KV cells, or to make room for another API key.",
        lambda c: c.preemptions_total,
    ),
    _Row("llamaserver:requests", "Requests submitted to the engine.", lambda c: c.requests_total),
    _Row(
        "llamaserver:requests_cancelled",
        "Requests cancelled because the client closed the connection.",
        lambda c: c.requests_cancelled_total,
    ),
    _Row("llamaserver:step_overhead_seconds", "Seconds spent in engine steps outside llama_decode.", _overhead),
)
LABELLED: tuple[tuple[str, _Row[Counters, Mapping[str, int]]], ...] = (
    (
        "code",
        _Row(
            "llamaserver:requests_failed",
            "Requests that the engine ended with an error, by the HTTP status of the error.",
            lambda c: c.requests_failed_total,
        ),
    ),
    (
        "status",
        _Row(
            "llamaserver:decode_failures",
            "Calls of llama_decode that failed, and engine steps that ended in a defect.",
            lambda c: c.decode_failures_total,
        ),
    ),
)
TRAFFIC: tuple[tuple[tuple[str, ...], _Row[Traffic, Counter[Any]]], ...] = (
    (
        ("key", "status"),
        _Row(
            "llamaserver:http_requests",
            "Requests of the clients' port, by the name of the API key and the class of the status.",
            lambda t: t.requests,
        ),
    ),
    (
        ("key",),
        _Row(
            "llamaserver:key_evaluated_tokens",
            "Prompt tokens that were not in the cache, by the name of the API key.",
            lambda t: t.evaluated,
        ),
    ),
    (
        ("key",),
        _Row(
            "llamaserver:key_generated_tokens", "Generated tokens, by the name of the API key.", lambda t: t.generated
        ),
    ),
    (
        ("keyword",),
        _Row(
            "llamaserver:schema_weakened",
            "Requests whose JSON schema was not enforced in full, by the keyword that was not.",
            lambda t: t.weakened,
        ),
    ),
)
UNAUTHORIZED: tuple[_Row[Traffic, float], ...] = (
    _Row("llamaserver:unauthorized", "Requests without a valid API key.", lambda t: t.unauthorized),
)
GAUGES: tuple[_Row[Snapshot, float], ...] = (
    _Row(
        "llamacpp:prompt_tokens_seconds",
        "Average prompt throughput in tokens/s.",
        lambda s: s.counters.prompt_tokens_seconds,
    ),
    _Row(
        "llamacpp:predicted_tokens_seconds",
        "Average generation throughput in tokens/s.",
        lambda s: s.counters.predicted_tokens_seconds,
    ),
    _Row("llamacpp:n_tokens_max", "Largest number of tokens in one request.", lambda s: s.counters.n_tokens_max),
    _Row("llamacpp:kv_cache_usage_ratio", "KV-cache usage. 1 means 100 percent usage.", _usage),
    _Row("llamacpp:kv_cache_tokens", "KV-cache tokens.", lambda s: s.kv_cells_used),
    _Row("llamacpp:requests_processing", "Number of requests processing.", lambda s: s.requests_processing),
    _Row("llamacpp:requests_deferred", "Number of requests deferred.", lambda s: s.requests_deferred),
    _Row("llamacpp:n_busy_slots_per_decode", "Average number of slots in the batch of a decode.", _busy_slots),
)
HISTOGRAMS: tuple[_Row[Counters, Histogram | None], ...] = (
    _Row(
        "llamaserver:time_to_first_token_seconds",
        "Seconds from the arrival of a request to its first token.",
        lambda c: c.time_to_first_token,
    ),
    _Row("llamaserver:inter_token_seconds", "Seconds between two tokens of one answer.", lambda c: c.inter_token),
)
STORE_GAUGES: tuple[_Row[StoreStats, float], ...] = (
    _Row("llamaserver:kv_store_entries", "Blocks on disk that this server can use.", lambda s: s.entries),
    _Row("llamaserver:kv_store_bytes", "Bytes on disk, blocks of other models included.", lambda s: s.bytes),
    _Row("llamaserver:kv_ram_entries", "Blocks in host memory.", lambda s: s.ram_entries),
    _Row("llamaserver:kv_ram_bytes", "Bytes of the blocks in host memory.", lambda s: s.ram_bytes),
)
STORE_COUNTERS: tuple[_Row[StoreStats, float], ...] = (
    _Row("llamaserver:kv_lookups", "Prompts looked up in the store.", lambda s: s.lookups),
    _Row("llamaserver:kv_saves", "Conversations written to the store.", lambda s: s.saves),
    _Row("llamaserver:kv_save_seconds", "Seconds spent on writing conversations.", lambda s: s.save_seconds),
    _Row("llamaserver:kv_restores", "Prompts restored from the store.", lambda s: s.restores),
    _Row(
        "llamaserver:kv_restore_seconds",
        "Seconds from the lookup of a prompt to its state in the KV cache.",
        lambda s: s.restore_seconds,
    ),
    _Row("llamaserver:kv_written_bytes", "Bytes written to disk.", lambda s: s.bytes_written),
    _Row("llamaserver:kv_read_bytes", "Bytes read from disk.", lambda s: s.bytes_read),
)
STORE_LABELLED: tuple[tuple[str, _Row[StoreStats, Mapping[str, int]]], ...] = (
    ("tier", _Row("llamaserver:kv_hits", "Prompts restored from this tier.", lambda s: s.hits)),
    (
        "tier",
        _Row(
            "llamaserver:kv_misses",
            "Prompts of which no tier had more tokens than the KV cache, counted for each tier.",
            lambda s: s.misses,
        ),
    ),
    (
        "tier",
        _Row("llamaserver:kv_restored_tokens", "Prompt tokens restored from this tier.", lambda s: s.tokens_restored),
    ),
    (
        "reason",
        _Row("llamaserver:kv_discards", "Blocks or conversations not saved or not used.", lambda s: s.discards),
    ),
)


CONNECTION_GAUGES: tuple[_Row[Counts, float], ...] = (
    _Row("llamaserver:connections", "Open connections of the clients' port.", lambda c: c.open),
)
CONNECTION_LABELLED: tuple[tuple[str, _Row[Counts, Mapping[str, int]]], ...] = (
    (
        "reason",
        _Row(
            "llamaserver:connections_limited",
            "Connections that a limit closed, refused or kept waiting.",
            lambda c: c.limited,
        ),
    ),
)


class _Engine(Collector):
    def __init__(self, context: Context, only: str | None) -> None:
        self._context = context
        self._only = only

    def collect(self) -> Iterator[Metric]:
        """One metric family after the other."""
        if self._only is not None:  # from the numbers of all keys, a user could tell what others do
            yield from _traffic(self._context.traffic, self._only)
            return
        snapshot = self._context.engine.snapshot
        yield from _counters(COUNTERS, snapshot.counters)
        yield from _labelled(LABELLED, snapshot.counters)
        yield from _gauges(GAUGES, snapshot)
        yield from _counters(UNAUTHORIZED, self._context.traffic)
        yield from _traffic(self._context.traffic, self._only)
        if snapshot.kv_store is not None:
            yield from _gauges(STORE_GAUGES, snapshot.kv_store)
            yield from _counters(STORE_COUNTERS, snapshot.kv_store)
            yield from _labelled(STORE_LABELLED, snapshot.kv_store)
        for row in HISTOGRAMS:
            if (histogram := row.value(snapshot.counters)) is not None:
                yield _family(row.name, row.text, histogram)
        yield from _gauges(CONNECTION_GAUGES, self._context.connections)
        yield from _labelled(CONNECTION_LABELLED, self._context.connections)


def _counters(rows: tuple[_Row[S, float], ...], source: S) -> Iterator[Metric]:
    for row in rows:
        yield CounterMetricFamily(row.name, row.text, value=row.value(source))


def _gauges(rows: tuple[_Row[S, float], ...], source: S) -> Iterator[Metric]:
    for row in rows:
        yield GaugeMetricFamily(row.name, row.text, value=row.value(source))


def _labelled(rows: tuple[tuple[str, _Row[S, Mapping[str, int]]], ...], source: S) -> Iterator[Metric]:
    for label, row in rows:
        family = CounterMetricFamily(row.name, row.text, labels=[label])
        for key, number in sorted(row.value(source).items()):
            family.add_metric([key], number)
        yield family


def _traffic(traffic: Traffic, only: str | None) -> Iterator[Metric]:
    for labels, row in TRAFFIC:
        family = CounterMetricFamily(row.name, row.text, labels=labels)
        for values, number in sorted(row.value(traffic).copy().items()):
            if only in (None, values[0]):
                family.add_metric(values, number)
        yield family


def _family(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, (float(count) for count in histogram.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total)


def exposition(context: Context, only: str | None = None) -> bytes:
    """The text format 0.0.4. Only the metrics of the key `only`. None: all metrics."""
    registry = CollectorRegistry()
    registry.register(_Engine(context, only))
    return generate_latest(registry)


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics. The numbers of other keys and of the whole server are for admins only."""
    context, key = request.app[CONTEXT], key_of(request)
    if not context.config.metrics:
        raise NotSupported("This server does not support metrics endpoint.")
    return metrics_response(context, None if key.bound is None else key.name)


def metrics_response(context: Context, only: str | None = None) -> web.Response:
    """The exposition with the process's start time."""
    response = web.Response(body=exposition(context, only))
    response.headers["Content-Type"] = "text/plain; version=0.0.4"
    response.headers["Process-Start-Time-Unix"] = str(int(context.started))
    return response


def add_routes(app: web.Application) -> None:
    """Mount the endpoint of this file."""
    app.router.add_get("/metrics", metrics)
