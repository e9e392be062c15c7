"""Slot files that others have made: whatever they contain, they are used as they are or refused with 400."""

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.api import slotfile
from llamaserver.errors import InvalidRequest

VERSION, VOCABULARY, TOKENS = 2, 100, (1, 2, 3)
STATE = bytes(range(50))


def read(path):
    found = slotfile.read(path, VOCABULARY, VERSION, most_tokens=64, most_bytes=1 << 20)
    slotfile.scales(path)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def sound(folder):
    """The bytes of a sound file and of its checksum."""
    path = folder / "sound"
    slotfile.write(path, TOKENS, STATE, VERSION, (0.5,))
    assert read(path)[0] == TOKENS
    return path.read_bytes(), slotfile._sidecar(path).read_bytes()


def tried(folder, content, sidecar):
    path = folder / "tried"
    path.write_bytes(content)
    beside = slotfile._sidecar(path)
    beside.unlink(missing_ok=True)
    if sidecar is not None:
        beside.write_bytes(sidecar)
    try:
        tokens, state, size = read(path)
    except InvalidRequest as error:
        assert error.field == "filename"
        return None
    assert size == len(content)
    assert all(0 <= token < VOCABULARY for token in tokens)
    return tokens, bytes(state)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200), sidecar=st.none() | st.binary(max_size=100))
def test_any_bytes(folder, content, sidecar):
    tried(folder, content, sidecar)


@settings(max_examples=150, deadline=None)
@given(count=st.integers(0, 2**32 - 1), rest=st.binary(max_size=100))
def test_any_count_behind_a_sound_head(folder, count, rest):
    tried(folder, struct.pack("<III", slotfile.MAGIC, VERSION, count) + rest, None)


def test_every_cut_and_every_changed_byte_is_found_by_the_checksum(folder, sound):
    content, sidecar = sound
    assert tried(folder, content, sidecar) == (TOKENS, STATE)
    for at in range(len(content)):
        assert tried(folder, content[:at], sidecar) is None
        assert tried(folder, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], sidecar) is None


@pytest.mark.parametrize("sidecar", [b"", b"\xff\xfe", b"0" * 64, b"x" * 100_000], ids=lambda text: repr(text[:8]))
def test_a_checksum_that_is_none(folder, sound, sidecar):
    assert tried(folder, sound[0], sidecar) is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("beside", [False, True], ids=["the file", "its checksum"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, sound, kind, beside):
    path = tmp_path / "slot"
    path.write_bytes(sound[0])
    special = slotfile._sidecar(path) if beside else path
    special.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(special)
    elif kind == "folder":
        special.mkdir()
    else:
        special.symlink_to("/dev/zero" if kind == "device" else tmp_path / "slot.other")
        (tmp_path / "slot.other").write_bytes(sound[0])
    with pytest.raises(InvalidRequest):
        read(path)
