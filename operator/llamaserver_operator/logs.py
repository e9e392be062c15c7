"""Logging to stdout, one line per event, as JSON or text. Every line of a reconcile names its object."""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

from .config import Config
from .text import one_line

current: ContextVar[tuple[str, str] | None] = ContextVar("current", default=None)  # the object being reconciled

# Loggers of kopf that repeat what the operator logs itself when a watch ends. The names are private to kopf.
SILENCED = (
    "kopf._core.reactor.running",  # it warns that it gets no signals, but handlers.py stops it by a flag
    "kopf._core.reactor.orchestration",  # tracebacks of its tasks when a kind goes away
    "kopf._cogs.clients",  # each attempt of each stream to connect again
)


def _object() -> dict[str, str]:
    key = current.get()
    return {} if key is None else {"namespace": key[0], "name": key[1]}


class JsonFormatter(logging.Formatter):
    """One JSON object per line. The `fields` of a record are added to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        value = {
            "timestamp": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "msg": record.getMessage(),
            **_object(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            value["exception"] = self.formatException(record.exc_info)
        return one_line(json.dumps(value, ensure_ascii=False, default=str))


class TextFormatter(logging.Formatter):
    """Time, level, logger, object, message, fields. Tracebacks are indented, so that no line looks like a record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(object)s%(message)s%(more)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        record.object = "{namespace}/{name}: ".format(**found) if (found := _object()) else ""
        record.more = "".join(f" {key}={value}" for key, value in getattr(record, "fields", {}).items())
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Render all but the traceback."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Render the traceback."""
        return "\n".join(f"    {one_line(line)}" for line in super().formatException(ei).split("\n"))


def configure(config: Config) -> None:
    """Set up the root logger."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.log_level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    if config.log_level != "debug":
        logging.getLogger("kopf").setLevel(logging.WARNING)  # it logs every event at level INFO
        for name in SILENCED:
            logging.getLogger(name).setLevel(logging.CRITICAL)
