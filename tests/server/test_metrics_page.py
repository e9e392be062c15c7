"""docs/reference/metrics.md describes every metric in the words of its help."""

from pathlib import Path

from llamaserver.api import metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def rows():
    """The lines of the page's tables."""
    for counter in (*metrics.COUNTERS, *metrics.UNAUTHORIZED, *metrics.STORE_COUNTERS):
        yield f"| `{counter.name}_total` | {counter.text} |"
    for label, counter in (*metrics.LABELLED, *metrics.STORE_LABELLED, *metrics.CONNECTION_LABELLED):
        yield f"| `{counter.name}_total{{{label}}}` | {counter.text} |"
    for labels, counter in metrics.TRAFFIC:
        yield f"| `{counter.name}_total{{{','.join(labels)}}}` | {counter.text} |"
    for gauge in (*metrics.GAUGES, *metrics.STORE_GAUGES, *metrics.CONNECTION_GAUGES):
        yield f"| `{gauge.name}` | {gauge.text} |"
    for histogram in metrics.HISTOGRAMS:
        yield f"| `{histogram.name}` | {histogram.text} Histogram. |"


def test_the_page_has_the_help_of_every_metric():
    lines = {line for line in PAGE.read_text().splitlines() if line.startswith("| `llama")}
    assert lines == set(rows())
