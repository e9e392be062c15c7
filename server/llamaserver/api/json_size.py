"""Refuses JSON texts that would need too much memory, before they are parsed.

`{"":0},` is 7 bytes of text and 230 bytes of Python objects. So the values of a text are bounded, not only its bytes.
With these bounds, the objects of a text take at most 150 MB, and the parser holds the interpreter for a short time.
"""

import numpy as np

from ..errors import InvalidRequest

MAX_VALUES = 1 << 21
MAX_STRINGS = 1 << 18  # keys too: the parser takes six times as long for them as for numbers
MAX_MEMBERS = 1 << 17  # of all objects
MAX_CONTAINERS = 1 << 16  # arrays and objects
_STEP = 1 << 20  # bytes that are looked at in one piece
_QUOTE = ord('"')


def check_size(data: bytes | bytearray) -> None:
    """Raise InvalidRequest for a JSON text with too many values."""
    if _too_many(data, quotes=2) and _too_many(_without_strings(data), quotes=1):
        raise InvalidRequest(
            f"the body has more than {MAX_VALUES:,} values, {MAX_STRINGS:,} strings, "
            f"{MAX_MEMBERS:,} members of objects, or {MAX_CONTAINERS:,} arrays and objects"
        )


def _too_many(data: bytes | bytearray, quotes: int) -> bool:
    """Whether a text has too many values. Letters in its strings are counted too. A string has so many `quotes`."""
    values, members, arrays, objects, marks = (data.count(letter) for letter in (b",", b":", b"[", b"{", b'"'))
    return (
        values >= MAX_VALUES
        or members > MAX_MEMBERS
        or arrays + objects > MAX_CONTAINERS
        or marks > quotes * MAX_STRINGS
    )


def _without_strings(data: bytes | bytearray) -> bytes:
    """The text between the strings, with one quote of each.

    Escapes are hidden first: no backslash is valid outside a string.
    """
    letters = np.frombuffer(data.replace(rb"\\", b"__").replace(rb"\"", b"__"), np.uint8)
    outside: list[bytes] = []
    inside = 0  # 1 where a string goes on
    for start in range(0, letters.size, _STEP):
        piece = letters[start : start + _STEP]
        strings = (np.cumsum(piece == _QUOTE, dtype=np.uint8) + inside) & 1
        outside.append(piece[strings == 0].tobytes())
        inside = int(strings[-1])
    return b"".join(outside)
