"""What happens when a slot is full: prompt truncation, context shift and self-extend.

The three algorithms are those of the April 2024 server. The first changes nothing. The other two
move positions in the cache of one sequence.
"""

from array import array

from ..interfaces.backend import Backend
from .residents import Resident, Residents
from .settings import EngineSettings

MARGIN = 4  # positions that n_keep may never claim


def truncated_prompt(keys: "array[int]", n_ctx: int, n_keep: int) -> "array[int]":
    """Cut whole half-blocks out of a prompt of n_ctx tokens or more, after its first n_keep.

    The result is shorter than n_ctx and ends as the prompt ends.
    """
    keep = min(len(keys) if n_keep < 0 else n_keep, n_ctx - MARGIN)
    block = max(1, (n_ctx - keep) // 2)
    erased = (len(keys) - keep - block) // block
    return keys[:keep] + keys[keep + erased * block :]


def discarded(resident: Resident, n_keep: int, n_discard: int) -> slice | None:
    """The positions that a context shift drops. Returns None if none can go.

    They follow the first `n_keep`. There are `n_discard` of them, or half of the rest when that is 0.
    """
    used = len(resident.keys)
    keep = min(n_keep, used - 1)
    count = min(n_discard or (used - keep) // 2, used - keep)
    if count <= 0 or any(key < 0 for key in resident.keys[keep:]):
        return None  # an image cannot be cut in two
    return slice(keep, keep + count)


def shift(resident: Resident, span: slice, residents: Residents, backend: Backend) -> bool:
    """Drop `span` and move what follows down. Does nothing and returns False when the memory cannot drop a part.

    No other sequence may share cells from there on.
    """
    if not backend.seq_rm(resident.seq, span.start, span.stop):
        return False
    backend.seq_add(resident.seq, span.stop, len(resident.keys), span.start - span.stop)
    residents.shift_pending(resident)
    first = span.start if resident.shifted_from is None else min(span.start, resident.shifted_from)
    resident.shifted_from, resident.stored = first, min(resident.stored, first)
    if not backend.info.partial_reuse:
        resident.private = True  # a recurrent state still depends on the dropped tokens
    if residents.ledger:
        residents.ledger.release(resident.cells[span])
        del resident.cells[span]
    del resident.keys[span]
    resident.position = len(resident.keys)
    return True


def self_extend(resident: Resident, settings: EngineSettings, residents: Residents, backend: Backend) -> None:
    """Compress the positions of every full group of grp_attn_w by grp_attn_n (grouped attention)."""
    factor, width = settings.grp_attn_n, settings.grp_attn_w
    resident.private = True
    while resident.position >= resident.group + width:
        past, group = resident.position, resident.group
        blocks = factor * group // width
        shrink = (width // factor) * (factor - 1)
        back = width // factor - blocks * shrink - width
        start = group + blocks * shrink
        backend.seq_add(resident.seq, group, past, blocks * shrink)
        backend.seq_div(resident.seq, start, start + width, factor)
        backend.seq_add(resident.seq, start + width, past + blocks * shrink, back)
        resident.position -= shrink
        resident.group += width // factor
        residents.shift_pending(resident)


def chunk_limit(resident: Resident, width: int) -> int:
    """Rows until the next group border of self-extend, which no chunk may cross."""
    return resident.group + width - resident.position
