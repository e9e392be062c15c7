"""Prometheus metrics, collected from the engine's snapshot when somebody asks."""

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine.snapshot import Counters, Histogram, Snapshot
from ..errors import NotSupported
from ..kvstore.messages import StoreStats
from .context import CONTEXT, Context

# (name without _total, help, field of Counters)
_COUNTERS = (
    ("llamacpp:prompt_tokens", "Number of prompt tokens processed.", "prompt_tokens_total"),
    ("llamacpp:prompt_seconds", "Seconds spent on prompts.", "prompt_seconds_total"),
    ("llamacpp:prompt_tokens_cached", "Number of prompt tokens taken from the cache.", "prompt_tokens_cached_total"),
    ("llamacpp:tokens_predicted", "Number of generation tokens processed.", "tokens_predicted_total"),
    ("llamacpp:tokens_predicted_seconds", "Seconds spent on generation.", "tokens_predicted_seconds_total"),
    ("llamacpp:n_decode", "Number of calls of decode.", "decode_total"),
    ("llamacpp:n_busy_slots", "Sum over decodes of the slots that took part.", "busy_slots_total"),
    ("llamaserver:decode_seconds", "Seconds inside decode.", "decode_seconds_total"),
    ("llamaserver:step_seconds", "Seconds of engine steps, decode included.", "step_seconds_total"),
    ("llamaserver:preemptions", "Requests that stepped back for others.", "preemptions_total"),
    ("llamaserver:requests", "Requests given to the engine.", "requests_total"),
    ("llamaserver:requests_cancelled", "Requests whose client went away.", "requests_cancelled_total"),
)
_RATES = (
    ("llamacpp:prompt_tokens_seconds", "Average prompt throughput in tokens/s.", "prompt_tokens_seconds"),
    ("llamacpp:predicted_tokens_seconds", "Average generation throughput in tokens/s.", "predicted_tokens_seconds"),
    ("llamacpp:n_tokens_max", "Largest number of tokens a request has held.", "n_tokens_max"),
)


class _Engine(Collector):
    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        """One metric family after the other."""
        snapshot = self._context.engine.snapshot
        counters = snapshot.counters
        for name, text, field in _COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(counters, field))
        overhead = max(0.0, counters.step_seconds_total - counters.decode_seconds_total)
        yield CounterMetricFamily(
            "llamaserver:step_overhead_seconds", "Seconds of steps outside decode.", value=overhead
        )
        for name, text, field in _RATES:
            yield GaugeMetricFamily(name, text, value=getattr(counters, field))
        yield from _gauges(snapshot, counters)
        if snapshot.kv_store is not None:
            yield from _kv_store(snapshot.kv_store)
        yield from _histograms(counters)


def _gauges(snapshot: Snapshot, counters: Counters) -> Iterator[Metric]:
    used, total = snapshot.kv_cells_used, snapshot.kv_cells_total
    ratio = used / total if total else 0.0
    busy = counters.busy_slots_total / counters.decode_total if counters.decode_total else 0.0
    yield GaugeMetricFamily("llamacpp:kv_cache_usage_ratio", "KV-cache usage. 1 means 100 percent usage.", value=ratio)
    yield GaugeMetricFamily("llamacpp:kv_cache_tokens", "KV-cache tokens.", value=used)
    yield GaugeMetricFamily(
        "llamacpp:requests_processing", "Number of requests processing.", value=snapshot.requests_processing
    )
    yield GaugeMetricFamily(
        "llamacpp:requests_deferred", "Number of requests deferred.", value=snapshot.requests_deferred
    )
    yield GaugeMetricFamily("llamacpp:n_busy_slots_per_decode", "Average busy slots a decode.", value=busy)


def _kv_store(kept: StoreStats) -> Iterator[Metric]:
    for name, text, value in (
        ("llamaserver:kv_store_entries", "Blocks on disk that this server can use.", kept.entries),
        ("llamaserver:kv_store_bytes", "Bytes on disk, those of other models included.", kept.bytes),
        ("llamaserver:kv_ram_entries", "Blocks in host memory.", kept.ram_entries),
        ("llamaserver:kv_ram_bytes", "Bytes of blocks in host memory.", kept.ram_bytes),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    for name, text, total in (
        ("llamaserver:kv_lookups", "Prompts that the store was asked about.", kept.lookups),
        ("llamaserver:kv_saves", "Conversations written to the store.", kept.saves),
        ("llamaserver:kv_save_seconds", "Seconds that writing them took.", kept.save_seconds),
        ("llamaserver:kv_restores", "Prompts that began from the store.", kept.restores),
        ("llamaserver:kv_restore_seconds", "Seconds that reading them took.", kept.restore_seconds),
        ("llamaserver:kv_written_bytes", "Bytes written to disk.", kept.bytes_written),
        ("llamaserver:kv_read_bytes", "Bytes read from disk.", kept.bytes_read),
    ):
        yield CounterMetricFamily(name, text, value=total)
    for name, text, label, values in (
        ("llamaserver:kv_hits", "Prompts that began from this tier.", "tier", kept.hits),
        ("llamaserver:kv_misses", "Prompts of which no tier had more than the cache.", "tier", kept.misses),
        ("llamaserver:kv_restored_tokens", "Prompt tokens not evaluated for it.", "tier", kept.tokens_restored),
        ("llamaserver:kv_discards", "What was not kept or not used.", "reason", kept.discards),
    ):
        family = CounterMetricFamily(name, text, labels=[label])
        for key, number in sorted(values.items()):
            family.add_metric([key], number)
        yield family


def _histograms(counters: Counters) -> Iterator[Metric]:
    for name, text, histogram in (
        ("llamaserver:time_to_first_token_seconds", "From arrival to first token.", counters.time_to_first_token),
        ("llamaserver:inter_token_seconds", "Between tokens of one answer.", counters.inter_token),
    ):
        if histogram is not None:
            yield _family(name, text, histogram)


def _family(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, (float(count) for count in histogram.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total)


def exposition(context: Context) -> bytes:
    """The text format 0.0.4."""
    registry = CollectorRegistry()
    registry.register(_Engine(context))
    return generate_latest(registry)


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics."""
    context = request.app[CONTEXT]
    if not context.config.metrics:
        raise NotSupported("This server does not support metrics endpoint.")
    return metrics_response(context)


def metrics_response(context: Context) -> web.Response:
    """The exposition with the process's start time."""
    response = web.Response(body=exposition(context))
    response.headers["Content-Type"] = "text/plain; version=0.0.4"
    response.headers["Process-Start-Time-Unix"] = str(int(context.started))
    return response


# ---- management port: no key, no TLS, not for clients


def add_routes(app: web.Application) -> None:
    """Mount the endpoint of this file."""
    app.router.add_get("/metrics", metrics)
