"""The reasons why the KV store did not use or save something: `reason` in llamaserver:kv_discards_total.

`python -m llamaserver.kvstore.discards docs/reference/metrics.md` prints that page with the current tables.
`make generate` writes it.
"""

import sys
from collections.abc import Iterator
from enum import Enum, StrEnum
from pathlib import Path
from typing import Self

BEGIN = "<!-- Made by `python -m llamaserver.kvstore.discards`. `make generate` writes it. -->"
END = "<!-- End of the generated part. -->"


class Event(Enum):
    """The event in which something was discarded. The value introduces its table."""

    LOOKUP = "Each lookup ends as one hit, as one miss of every tier, or as one discard with one of these reasons:"
    OTHER = (
        "These reasons count other events, among them blocks that were removed and conversations that were not saved:"
    )


class Discard(StrEnum):
    """One reason. `meaning` is its row in docs/reference/metrics.md."""

    event: Event
    meaning: str

    def __new__(cls, word: str, event: Event, meaning: str) -> Self:
        """Make a member that equals its word."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.event = event
        member.meaning = meaning
        return member

    TOO_SHORT = "too_short", Event.LOOKUP, "The saved prefix is shorter than `--kv-store-min-tokens`."
    SLOWER_THAN_PREFILL = (
        "slower_than_prefill",
        Event.LOOKUP,
        "Evaluating the tokens is faster than restoring them, by the rates measured last.",
    )
    SLOW_VOLUME = (
        "slow_volume",
        Event.LOOKUP,
        "The store did not answer within the time that evaluating the prompt takes, or within 5 s if that is longer.",
    )
    OVERTAKEN = "overtaken", Event.LOOKUP, "Another request has meanwhile brought as many tokens into the cache."
    NOT_NOW = (
        "not_now",
        Event.LOOKUP,
        "The cache has no room for the state, or a pending copy prevents loading it.",
    )
    UNWANTED = "unwanted", Event.LOOKUP, "The client has gone, or the request has to wait for the slot that it named."
    OTHER_LAYOUT = "other_layout", Event.LOOKUP, "The state does not fit this context."
    NOT_ASKED = (
        "not_asked",
        Event.OTHER,
        "No lookup was made, because an earlier one is late.",
    )
    EVICTED = "evicted", Event.OTHER, "A block was removed to make room (`--kv-store-max-bytes`, or a full disk)."
    EXPIRED = "expired", Event.OTHER, "A block was not used for `--kv-store-ttl`."
    ORPHAN = "orphan", Event.OTHER, "A folder was removed because no server has used its model for a day."
    QUEUE_FULL = "queue_full", Event.OTHER, "A conversation left the cache unsaved: other saves were waiting."
    UNSETTLED = "unsettled", Event.OTHER, "A conversation left the cache unsaved: a copy in the cache was pending."
    PAUSED = "paused", Event.OTHER, "A conversation left the cache unsaved: a write has failed a moment ago."
    DISK_FULL = "disk_full", Event.OTHER, "A file operation failed: the disk or the quota is full."
    IO_ERROR = "io_error", Event.OTHER, "A file operation failed for another cause. The log has it."
    TORN = "torn", Event.OTHER, "A file was cut off. It was removed."
    FORGED = (
        "forged",
        Event.OTHER,
        "A file was not written with the key of the store, or has changed since then. It was removed.",
    )
    FOREIGN = (
        "foreign",
        Event.OTHER,
        "A file is not what its name says: another block, a link, a pipe, a folder. It was removed.",
    )
    COLLISION = "collision", Event.OTHER, "Two different prefixes have the same hash."
    CANNOT_CUT = "cannot_cut", Event.OTHER, "A state could not be cut into blocks."
    DEFECT = "defect", Event.OTHER, "An unexpected error in a lookup or a save. The log has it."


def markdown() -> str:
    """The tables of docs/reference/metrics.md, with the lines that mark their place."""
    return "\n".join([BEGIN, "", *_lines(), END])


def _lines() -> Iterator[str]:
    for event in Event:
        yield from (event.value, "", "| reason | meaning |", "|---|---|")
        yield from (f"| `{reason}` | {reason.meaning} |" for reason in Discard if reason.event is event)
        yield ""


def updated(page: str) -> str:
    """The page with the current tables."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + markdown() + after


if __name__ == "__main__":
    print(updated(Path(sys.argv[1]).read_text()), end="")
