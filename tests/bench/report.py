"""The result as one line of JSON, and as lines that a person reads on the way there."""

import json
from typing import Any

from .rounds import Row, Samples
from .stats import significant, spread


def row_json(row: Row, samples: Samples) -> dict[str, Any]:
    """One row; `others_cores` tells how much other processes disturbed it."""
    value: dict[str, Any] = {
        **row.value.as_json(),
        "unit": row.unit,
        "target": str(row.target) if row.target else None,
        "met": row.met,
        "medians": {side: significant(number, 4) for side, number in row.raw.items()},
        "medians_unit": row.raw_unit,
        "others_cores": spread(samples.others).as_json(2),
    }
    return value | ({"notes": row.notes} if row.notes else {})


def line(row: Row) -> str:
    """One row for people."""
    number = row.value.as_json()
    verdict = {True: "met", False: "MISSED", None: "no target"}[row.met]
    medians = ", ".join(f"{side} {significant(value, 4):g}" for side, value in row.raw.items())
    return (
        f"{row.name:22} {number['median']:g} ({number['min']:g} to {number['max']:g}) {row.unit}, "
        f"target {row.target}: {verdict}; {medians} {row.raw_unit}"
    )


def dumps(result: dict[str, Any]) -> str:
    """One line."""
    return json.dumps(result, separators=(",", ":"))
