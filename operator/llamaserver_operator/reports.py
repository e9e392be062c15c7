"""What a pod's /status says, as far as the operator reads it. A pod runs what its owner chose: nothing else gets in."""

from typing import Any

import msgspec


class Slots(msgspec.Struct):
    """Slots of the pod."""

    processing: int = 0


class ModelReport(msgspec.Struct):
    """The model that is loaded; sizes in bytes and tokens."""

    path: str = ""
    architecture: str = ""
    quantization: str = ""
    size_bytes: int = 0
    trained_context: int = 0
    sha256: str = ""


class AcceleratorReport(msgspec.Struct):
    """What computes."""

    device: str = ""
    layers_offloaded: int = 0
    layers_total: int = 0


class Download(msgspec.Struct):
    """Progress in bytes; a total of 0 is not known yet."""

    file: str = ""
    bytes: int = 0
    total_bytes: int = 0


class KvStore(msgspec.Struct):
    """The prefix store."""

    entries: int = 0
    bytes: int = 0
    restored_tokens: int = 0


class Report(msgspec.Struct, omit_defaults=True):
    """One pod's report."""

    state: str = ""
    error: str = ""
    waiting_for_lock: bool = False
    requests_deferred: int = 0
    slots: Slots | None = None
    model: ModelReport | None = None
    accelerator: AcceleratorReport | None = None
    download: Download | None = None
    kv_store: KvStore | None = None


def parse_report(data: bytes | bytearray) -> dict[str, Any]:
    """The report, without what the operator does not know; ValueError when it is none."""
    report: dict[str, Any] = msgspec.to_builtins(msgspec.json.decode(data, type=Report))
    return report
