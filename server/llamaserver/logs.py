"""Logging to stdout and to a file, one line per event, as JSON or text."""

import io
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from .config import Config


def one_line(text: str) -> str:
    """The text with every character that does not print as its JSON escape.

    Paths and messages of clients can contain such characters. They could end a line and begin a forged one, or control
    the terminal that shows the log.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class JsonFormatter(logging.Formatter):
    """One JSON object per line. The `fields` of a record become its members."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        value = {
            "timestamp": round(record.created, 3),
            "level": record.levelname,
            "logger": record.name,
            "msg": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            value["exception"] = self.formatException(record.exc_info)
        return one_line(json.dumps(value, ensure_ascii=False, default=str))


class TextFormatter(logging.Formatter):
    """Time, level, logger, message. Tracebacks are indented, so that no line of them looks like a record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's name
        """Render all but the traceback."""
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Render the traceback."""
        return "\n".join(f"    {one_line(line)}" for line in super().formatException(ei).split("\n"))


def configure(config: Config) -> None:
    """Set up the root logger. If the file cannot be written, a warning is logged."""
    formatter = JsonFormatter() if config.log_format == "json" else TextFormatter()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # a line with any bytes can be written
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    problem = None
    if not config.log_disable:
        try:
            handlers.append(logging.FileHandler(Path(config.log_file), encoding="utf-8", errors="backslashreplace"))
        except OSError as error:
            problem = error
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.DEBUG if config.verbose else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a full disk under the log file must not print tracebacks for ever
    if problem is not None:
        logging.getLogger(__name__).warning("cannot write the log file: %s", problem)
