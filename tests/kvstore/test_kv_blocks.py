"""Blocks of saved sequences: identities, the longest saved prefix, and files of which no damaged byte is believed."""

from array import array
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaserver.interfaces.keys import common_prefix
from llamaserver.kvstore.blocks import (
    BLOCK,
    Block,
    BlockId,
    DamagedBlockError,
    Index,
    chain,
    decode,
    decode_keys,
    encode,
    head_size,
    identify,
    identity_at,
    match,
    match_whole,
    root,
)

FINGERPRINT, OTHER = bytes(16), bytes(15) + b"\1"
ROOT = root(FINGERPRINT, (), ())
KEYS = st.lists(st.integers(0, 3), max_size=4 * BLOCK).map(lambda items: array("q", items))


def blocks_of(keys: "array[int]", rows: int | None = None) -> list[Block]:
    """A sequence as the store cuts it; `rows` of its last keys are seen by the window."""
    found, parent = [], ROOT
    for at in range(0, len(keys), BLOCK):
        part = keys[at : at + BLOCK]
        seen = len(part) if rows is None else max(0, min(len(part), at + len(part) - (len(keys) - rows)))
        block = BlockId(parent, identify(parent, part), at, len(part), seen)
        found.append(Block(block, part, np.arange(3 * len(part), dtype=np.uint8)))
        parent = block.identity
    return found


def matched(blocks: list[Block], keys: "array[int]", window: int = 0) -> int:
    index, keys_of = Index(), {}
    for block in blocks:
        index.add(block.id)
        keys_of[block.id.identity] = block.keys
    found = match(keys, ROOT, [index], lambda b: keys_of[b.identity], window)
    assert all(a.identity == b.parent for (a, _), (b, _) in pairwise(found))
    return found[-1][0].start + found[-1][1] if found else 0


# ---- identity and finding


def test_names_say_everything() -> None:
    for block in (*blocks_of(array("q", range(200))), *blocks_of(array("q", range(200)), rows=70)):
        assert BlockId.parse(block.id.name) == block.id
    whole = BlockId(ROOT, ROOT, 0, 77, 77, whole=True)
    assert BlockId.parse(whole.name) == whole
    for name in ("", ".tmp-1", "x.block", whole.name + "x", whole.name.upper()):
        assert BlockId.parse(name) is None


def test_roots_differ_by_model_adapters_and_scales() -> None:
    a, b = b"a" * 32, b"b" * 32
    roots = [
        root(FINGERPRINT, (), ()),
        root(OTHER, (), ()),
        root(FINGERPRINT, (a,), (1.0,)),
        root(FINGERPRINT, (a,), (0.5,)),
        root(FINGERPRINT, (b,), (1.0,)),
        root(FINGERPRINT, (a, b), (1.0, 1.0)),
        root(FINGERPRINT, (b, a), (1.0, 1.0)),
    ]
    assert len(set(roots)) == len(roots)
    assert root(FINGERPRINT, (a, b), (0.0, 1.0)) == root(FINGERPRINT, (b,), (1.0,))


@given(KEYS, KEYS, KEYS)
def test_the_longest_common_prefix_is_found(first: "array[int]", second: "array[int]", wanted: "array[int]") -> None:
    """By brute force: how far the prompt agrees with what was saved, wherever that ends within a block."""
    expected = max(common_prefix(saved, wanted) for saved in (first, second))
    assert matched(blocks_of(first) + blocks_of(second), wanted) == expected


@given(KEYS, st.integers(1, 100))
def test_a_window_is_never_left_without_its_rows(keys: "array[int]", window: int) -> None:
    saved = blocks_of(keys, rows=window)
    for wanted in (keys, keys + array("q", [9, 9])):
        assert matched(saved, wanted, window) == len(keys)  # as it was saved, it can go on
    for end in range(0, len(keys), 7):
        length = matched(saved, keys[:end] + array("q", [9]), window)
        first = max(0, length - window)
        assert length == 0 or first >= len(keys) - window or len(keys) <= window


def test_whole_states_are_found_where_they_end() -> None:
    keys = array("q", range(300))
    index = Index()
    for count in (10, 64, 130, 300):
        identity = identity_at(chain(ROOT, keys), keys, count)
        index.add(BlockId(ROOT, identity, 0, count, count, whole=True))
    for end, expected in ((9, 0), (10, 10), (63, 10), (64, 64), (129, 64), (299, 130), (300, 300)):
        found = match_whole(keys[:end], ROOT, [index])
        assert (found[0][1] if found else 0) == expected
    assert not match_whole(array("q", [7, *range(299)]), ROOT, [index])


def test_of_two_blocks_with_one_identity_the_fuller_one_stays() -> None:
    poor, rich = BlockId(ROOT, b"i" * 16, 0, 64, 10), BlockId(ROOT, b"i" * 16, 0, 64, 30)
    index = Index()
    assert index.add(poor) is None
    assert index.add(rich) == poor
    assert index.add(poor) == poor
    assert index.by_identity[b"i" * 16] == rich
    index.remove(rich)
    assert len(index) == 0
    assert index.children(ROOT) == []


# ---- files


def file_of(block: Block, fingerprint: bytes = FINGERPRINT) -> np.ndarray:
    return np.concatenate([np.frombuffer(bytes(part), np.uint8) for part in encode(block, fingerprint)])


SOME = blocks_of(array("q", range(100)))


def test_what_was_written_is_read() -> None:
    for block in SOME:
        data = file_of(block)
        again = decode(data, block.id, FINGERPRINT)
        assert (again.id, again.keys) == (block.id, block.keys)
        np.testing.assert_array_equal(again.payload, block.payload)
        assert decode_keys(data.tobytes()[: head_size(block.id.count)], block.id) == block.keys


@given(st.data())
def test_a_changed_byte_is_never_believed(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from(SOME))
    file = file_of(block)
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedBlockError):
        decode(file, block.id, FINGERPRINT)
    keys = decode_keys(file.tobytes()[: head_size(block.id.count)], block.id)
    assert keys in (None, block.keys)


@given(st.data())
def test_a_shorter_or_longer_file_is_never_believed(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from(SOME))
    file = file_of(block)
    cut = file[: data.draw(st.integers(0, len(file) - 1))]
    extra = np.concatenate([file, np.frombuffer(data.draw(st.binary(min_size=1, max_size=99)), np.uint8)])
    for wrong in (cut, extra):
        with pytest.raises(DamagedBlockError):
            decode(wrong, block.id, FINGERPRINT)


@given(st.binary(max_size=2000))
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedBlockError):
        decode(np.frombuffer(data, np.uint8), SOME[0].id, FINGERPRINT)
    assert decode_keys(data, SOME[0].id) is None


def test_a_sound_file_in_the_wrong_place_is_foreign() -> None:
    first, second = SOME
    for file, block, fingerprint in (
        (file_of(first, OTHER), first.id, FINGERPRINT),
        (file_of(first), first.id, OTHER),
        (file_of(first), second.id, FINGERPRINT),
    ):
        with pytest.raises(DamagedBlockError, match="foreign"):
            decode(file, block, fingerprint)
