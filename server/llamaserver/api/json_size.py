"""Refuses JSON texts that would need too much memory, before they are parsed.

`{"":0},` is 7 bytes of text and 230 bytes of Python objects. So the values of a text are bounded, not only its bytes.
With these bounds, the objects of a text take at most 150 MB, and the parser holds the interpreter for a short time.
"""

import numpy as np

from ..errors import InvalidRequest

MAX_VALUES = 1 << 21
MAX_CONTAINERS = 1 << 16  # arrays and objects
_STEP = 1 << 20  # bytes that are looked at in one piece
_QUOTE = ord('"')


def check_size(data: bytes | bytearray) -> None:
    """Raise InvalidRequest for a JSON text with too many values."""
    if _too_many(*(data.count(letter) for letter in (b",", b"[", b"{"))):  # those in strings are counted too
        text = _without_strings(data)
        if _too_many(*(text.count(letter) for letter in (b",", b"[", b"{"))):
            raise InvalidRequest(
                f"the body has more than {MAX_VALUES:,} values, or more than {MAX_CONTAINERS:,} arrays and objects"
            )


def _too_many(commas: int, arrays: int, objects: int) -> bool:
    return commas >= MAX_VALUES or arrays + objects > MAX_CONTAINERS


def _without_strings(data: bytes | bytearray) -> bytes:
    """The text between the strings. Escapes are hidden first: no backslash is valid outside a string."""
    letters = np.frombuffer(data.replace(rb"\\", b"__").replace(rb"\"", b"__"), np.uint8)
    outside: list[bytes] = []
    inside = 0  # 1 where a string goes on
    for start in range(0, letters.size, _STEP):
        piece = letters[start : start + _STEP]
        strings = (np.cumsum(piece == _QUOTE, dtype=np.uint8) + inside) & 1
        outside.append(piece[strings == 0].tobytes())
        inside = int(strings[-1])
    return b"".join(outside)
