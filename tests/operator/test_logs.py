"""Log lines, conditions and Events: what pods and the API server say cannot forge a line or control a terminal."""

import json
import logging

import pytest
from llamaserver_operator.logs import JsonFormatter, TextFormatter

FORGED = "2026-01-01T00:00:00Z ERROR   llamaserver_operator: all is lost"


def record(message: str, **fields: str) -> logging.LogRecord:
    made = logging.LogRecord("a", logging.WARNING, "f", 1, message, (), None)
    made.fields = fields
    return made


@pytest.mark.parametrize("trick", ["\n", "\r", "\x85", "\u2028", "\x1b[2K", "\x00", "\u202e"], ids=ascii)
def test_one_record_is_one_printable_line(trick: str) -> None:
    made = record(f"pod says {trick}{FORGED}", reason=trick + FORGED)
    text, line = TextFormatter().format(made), JsonFormatter().format(made)
    assert text.isprintable()
    assert line.isprintable()
    assert text.count("Z ") == 3, "one time of its own, two in what was said"
    assert json.loads(line)["msg"] == f"pod says {trick}{FORGED}"


def test_a_traceback_is_indented() -> None:
    made = record("failed")
    try:
        raise ValueError(f"x\n{FORGED}\x1b[2K")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    first, *rest = TextFormatter().format(made).splitlines()
    assert first.endswith("a: failed")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == f"    {FORGED}\\u001b[2K"
