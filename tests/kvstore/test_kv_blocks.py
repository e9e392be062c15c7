"""Blocks of saved sequences: identities, the longest saved prefix, and files of which no damaged byte is believed."""

from array import array
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaserver.interfaces.keys import common_prefix
from llamaserver.interfaces.tenant import ALL, Scope
from llamaserver.kvstore.blockfile import DamagedBlockError
from llamaserver.kvstore.blocks import Block, BlockId, Index, match, match_whole
from llamaserver.kvstore.identity import BLOCK, Chain

from tests.support.engine.kv import SECRET, block_in, chain, file_of

OTHER = bytes(15) + b"\1"
CHAIN = chain()
ROOT = CHAIN.start
KEYS = st.lists(st.integers(0, 3), max_size=4 * BLOCK).map(lambda items: array("q", items))


def blocks_of(keys: "array[int]", rows: int | None = None, links: Chain = CHAIN) -> list[Block]:
    """A sequence as the store cuts it; `rows` of its last keys are seen by the window."""
    found, link = [], links.start
    for at in range(0, len(keys), BLOCK):
        part, parent = keys[at : at + BLOCK], links.parent(link, at)
        seen = len(part) if rows is None else max(0, min(len(part), at + len(part) - (len(keys) - rows)))
        block = BlockId(parent, links.identity(parent, part), at, len(part), seen)
        found.append(Block(block, part, np.arange(3 * len(part), dtype=np.uint8)))
        link = block.identity
    return found


def matched(blocks: list[Block], keys: "array[int]", window: int = 0) -> int:
    index, keys_of = Index(), {}
    for block in blocks:
        index.add(block.id)
        keys_of[block.id.identity] = block.keys
    found = match(keys, CHAIN, [index], lambda b: keys_of[b.identity], window)
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


def start(fingerprint: bytes, adapters: tuple[bytes, ...], scales: tuple[float, ...]) -> bytes:
    return Chain.of(SECRET, fingerprint, adapters, scales, ALL).start


def test_chains_differ_by_model_adapters_and_scales() -> None:
    a, b = b"a" * 32, b"b" * 32
    roots = [
        start(bytes(16), (), ()),
        start(OTHER, (), ()),
        start(bytes(16), (a,), (1.0,)),
        start(bytes(16), (a,), (0.5,)),
        start(bytes(16), (b,), (1.0,)),
        start(bytes(16), (a, b), (1.0, 1.0)),
        start(bytes(16), (b, a), (1.0, 1.0)),
    ]
    assert len(set(roots)) == len(roots)
    assert start(bytes(16), (a, b), (0.0, 1.0)) == start(bytes(16), (b,), (1.0,))


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
        identity = CHAIN.identity_at(CHAIN.links(keys), keys, count)
        index.add(BlockId(ROOT, identity, 0, count, count, whole=True))
    for end, expected in ((9, 0), (10, 10), (63, 10), (64, 64), (129, 64), (299, 130), (300, 300)):
        found = match_whole(keys[:end], CHAIN, [index])
        assert (found[0][1] if found else 0) == expected
    assert not match_whole(array("q", [7, *range(299)]), CHAIN, [index])


def test_of_two_blocks_with_one_identity_the_fuller_one_stays() -> None:
    poor, rich = BlockId(ROOT, b"i" * 16, 0, 64, 10), BlockId(ROOT, b"i" * 16, 0, 64, 30)
    index = Index()
    assert index.add(poor) is None
    assert index.add(rich) == poor
    assert index.add(poor) == poor
    assert index.get(b"i" * 16) == rich
    index.remove(rich)
    assert len(index) == 0
    assert index.children(ROOT) == []


# ---- files

SOME = blocks_of(array("q", range(100)))


def test_what_was_written_is_read() -> None:
    for block in SOME:
        again = block_in(file_of(block), block.id)
        assert (again.id, again.keys) == (block.id, block.keys)
        np.testing.assert_array_equal(again.payload, block.payload)


@given(st.data())
def test_a_changed_byte_is_never_believed(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from(SOME))
    file = bytearray(file_of(block))
    file[data.draw(st.integers(0, len(file) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedBlockError):
        block_in(bytes(file), block.id)


@given(st.data())
def test_a_shorter_or_longer_file_is_never_believed(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from(SOME))
    file = file_of(block)
    cut = file[: data.draw(st.integers(0, len(file) - 1))]
    extra = file + data.draw(st.binary(min_size=1, max_size=99))
    for wrong in (cut, extra):
        with pytest.raises(DamagedBlockError):
            block_in(wrong, block.id)


@given(st.binary(max_size=2000))
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedBlockError):
        block_in(data, SOME[0].id)


def test_a_sound_file_in_the_wrong_place_is_foreign() -> None:
    first, second = SOME[0], blocks_of(array("q", range(1, 65)))[0]
    for file, block, fingerprint in ((file_of(first, OTHER), first.id, None), (file_of(first), second.id, None)):
        with pytest.raises(DamagedBlockError, match="foreign"):
            block_in(file, block, *filter(None, [fingerprint]))


def test_without_the_key_no_file_can_be_made() -> None:
    """Whatever it says, and though its maker has read all the others."""
    for block in SOME:
        with pytest.raises(DamagedBlockError, match="forged"):
            block_in(file_of(block, secret=bytes(32)), block.id)


# ---- domains


def test_identities_cannot_be_computed_without_the_key() -> None:
    keys = array("q", range(200))
    own = {block.id.identity for block in blocks_of(keys)}
    others = {block.id.identity for block in blocks_of(keys, links=Chain.of(bytes(32), bytes(16), (), (), ALL))}
    assert bytes(32) != SECRET
    assert not own & others


@given(KEYS, KEYS, st.integers(0, 3 * BLOCK), st.sampled_from([b"", b"one", b"two"]), st.sampled_from([b"one", b"two"]))
def test_another_domain_gets_whole_blocks_of_the_system_prompt_alone(
    first: "array[int]", second: "array[int]", common: int, writer: bytes, reader: bytes
) -> None:
    """`common` keys are the server's in both. What is found depends on nothing that comes after them."""
    second[:common] = first[:common]
    common = min(common, len(first), len(second))
    index = Index()
    held = {}
    for block in blocks_of(first, links=chain(Scope(writer, common))):
        index.add(block.id)
        held[block.id.identity] = block.keys
    found = match(second, chain(Scope(reader, common)), [index], lambda b: held[b.identity], 0)
    length = found[-1][0].start + found[-1][1] if found else 0
    assert length == (common_prefix(first, second) if writer == reader else common // BLOCK * BLOCK)


@given(KEYS, st.integers(0, 3 * BLOCK), st.sampled_from([b"one", b"two"]), st.sampled_from([b"one", b"two"]))
def test_nor_does_it_get_whole_states(keys: "array[int]", common: int, writer: bytes, reader: bytes) -> None:
    mine, theirs = chain(Scope(writer, common)), chain(Scope(reader, common))
    block = BlockId(
        mine.start, mine.identity_at(mine.links(keys), keys, len(keys)), 0, len(keys), len(keys), whole=True
    )
    index = Index()
    index.add(block)
    found = match_whole(keys + array("q", [9]), theirs, [index])
    assert bool(found) == (writer == reader or len(keys) <= common // BLOCK * BLOCK)
