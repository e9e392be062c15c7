"""The report that a pod serves at /status on its management port: the fields that the operator reads.

A pod runs an image of the user's choice. Unknown fields are dropped and wrong types are refused.
"""

from typing import TypedDict

import msgspec


class Slots(TypedDict, total=False):
    """Slots of the pod that process a request."""

    processing: int


class ModelReport(TypedDict, total=False):
    """The model that is loaded. Sizes are in bytes, the context is in tokens."""

    path: str
    architecture: str
    quantization: str
    size_bytes: int
    trained_context: int
    sha256: str


class AcceleratorReport(TypedDict, total=False):
    """The device that computes, and how many layers of the model it holds."""

    device: str
    layers_offloaded: int
    layers_total: int


class Download(TypedDict, total=False):
    """Progress in bytes. A total of 0 means that the size is not known yet."""

    file: str
    bytes: int
    total_bytes: int


class KvStore(TypedDict, total=False):
    """The KV store: its blocks, their bytes, and the tokens restored from it."""

    entries: int
    bytes: int
    restored_tokens: int


class Report(TypedDict, total=False):
    """The report of one pod."""

    state: str
    error: str
    waiting_for_lock: bool
    requests_deferred: int
    slots: Slots | None
    model: ModelReport | None
    accelerator: AcceleratorReport | None
    download: Download | None
    kv_store: KvStore | None


def parse_report(data: bytes | bytearray) -> Report:
    """The report. ValueError when the data is not a report."""
    return msgspec.json.decode(data, type=Report)
