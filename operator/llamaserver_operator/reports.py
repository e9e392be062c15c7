"""The report that a pod serves at /status on its management port: the fields that the operator reads.

A pod runs an image of the user's choice. Unknown fields are dropped, wrong types are refused, and long texts are cut.
"""

from typing import Annotated, Any, TypedDict, cast

import msgspec

# So that the sum over all pods is one that the API server takes.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


_LONGEST = 256  # characters of a text


class Slots(TypedDict, total=False):
    """Slots of the pod that process a request."""

    processing: Count


class ModelReport(TypedDict, total=False):
    """The model that is loaded. Sizes are in bytes, the context is in tokens."""

    path: str
    architecture: str
    quantization: str
    size_bytes: Count
    trained_context: Count
    sha256: str


class AcceleratorReport(TypedDict, total=False):
    """The device that computes, and how many layers of the model it holds."""

    device: str
    layers_offloaded: Count
    layers_total: Count


class Download(TypedDict, total=False):
    """Progress in bytes. A total of 0 means that the size is not known yet."""

    file: str
    bytes: Count
    total_bytes: Count


class KvStore(TypedDict, total=False):
    """The KV store: its blocks, their bytes, and the tokens restored from it."""

    entries: Count
    bytes: Count
    restored_tokens: Count


class Report(TypedDict, total=False):
    """The report of one pod."""

    state: str
    error: str
    waiting_for_lock: bool
    requests_deferred: Count
    slots: Slots | None
    model: ModelReport | None
    accelerator: AcceleratorReport | None
    download: Download | None
    kv_store: KvStore | None


def parse_report(data: bytes | bytearray) -> Report:
    """The report. ValueError when the data is not a report."""
    try:
        report = msgspec.json.decode(data, type=Report)
    except RecursionError:  # also for a field that is dropped
        raise ValueError("the report is nested too deeply") from None
    if model := report.get("model"):  # of a path, the end is shown
        model["path"] = model.get("path", "")[-_LONGEST:]
    return cast("Report", _cut(report))


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(part) for key, part in value.items()}
    return value[:_LONGEST] if isinstance(value, str) else value
