"""Who can write to the store's folder, but has no key, can cost others their hits, and nothing else."""

import errno
import os
import socket
import threading
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from llamaserver import files as whole_files
from llamaserver.kvstore import key
from llamaserver.kvstore.blockfile import Format
from llamaserver.kvstore.blocks import Block, BlockId
from llamaserver.kvstore.store import KVStore

from tests.support.engine.kv import FINGERPRINT, files, find, found, opened, save
from tests.support.polling import until

PROMPT = array("q", range(300))
OTHER = array("q", range(1000, 1300))
DAY = 24 * 3600.0


def rejected(store: KVStore) -> dict[str, int]:
    """Files that were not believed, by reason."""
    return {reason: n for reason, n in store.stats().discards.items() if reason in ("forged", "foreign", "torn")}


def test_a_state_filed_under_another_prompt_is_a_miss(tmp_path: Path) -> None:
    """All parts of the names are right: they were copied from the files that are there."""
    with opened(tmp_path) as store:
        save(store, PROMPT)
    for path in files(tmp_path):
        block = BlockId.parse(path.name)
        assert block is not None
        state = np.full(16 * block.count, 7, np.uint8)  # what the attacker wants the model to remember
        part = PROMPT[block.start : block.start + block.count]
        forged = Format(FINGERPRINT, bytes(32)).encode(Block(block, part, state))
        path.write_bytes(b"".join(bytes(piece) for piece in forged))
    with opened(tmp_path) as store:
        assert find(store, PROMPT) is None
        assert set(rejected(store)) == {"forged"}
        for _ in files(tmp_path):  # one shows at a time
            save(store, PROMPT)
            found(store, PROMPT)
        save(store, PROMPT)
        assert found(store, PROMPT) == 300


def test_a_file_under_the_name_of_another_one_is_a_miss(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        save(store, PROMPT)
        save(store, OTHER)
        one, two = (path for path in files(tmp_path) if path.name.startswith("000000-000040"))
        text = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(text)
        assert found(store, PROMPT) == found(store, OTHER) == 0
        assert rejected(store) == {"foreign": 2}


def _sparse(path: Path) -> None:
    os.truncate(path, 1 << 42)


def _zeros(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 1 << 42)


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _full_folder(path: Path) -> None:
    (path / "deeper").mkdir(parents=True)


ODD: dict[str, Callable[[Path], None]] = {
    "sparse": _sparse,
    "sparse zeros": _zeros,
    "pipe": _replaced(os.mkfifo),
    "socket": _replaced(_socket),
    "folder": _replaced(_full_folder),
    "link to a pipe": _replaced(lambda path: (os.mkfifo(path.parent / "p"), path.symlink_to("p"))),
    "link to memory": _replaced(lambda path: path.symlink_to("/dev/zero")),
    "hard link": _replaced(lambda path: path.hardlink_to(_outside(path))),
}


def _outside(path: Path) -> Path:
    outside = path.parents[2] / "outside"
    outside.write_text("not ours")
    return outside


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("place", ["first", "last"])  # the last one's keys are read apart from it
def test_odd_files_are_misses_at_once_and_go(tmp_path: Path, what: str, place: str) -> None:
    folder = tmp_path / "kv"
    with opened(folder) as store:
        save(store, PROMPT)
        path = files(folder)[0 if place == "first" else -1]
        ODD[what](path)
        began = time.monotonic()
        assert found(store, PROMPT) == (0 if place == "first" else 256)
        assert time.monotonic() - began < 1
        assert sum(rejected(store).values()) >= 1
        assert not os.path.lexists(path)
        save(store, PROMPT)
        assert found(store, PROMPT) == 300
    if what == "hard link":
        assert (tmp_path / "outside").read_text() == "not ours"


OWN = [".lock", f"{FINGERPRINT.hex()}/.used"]


@pytest.mark.parametrize(
    ("name", "what"), [*((name, what) for name in OWN for what in ("link", "pipe")), (FINGERPRINT.hex(), "link")]
)
def test_the_stores_own_files_are_no_way_out_of_its_folder(tmp_path: Path, name: str, what: str) -> None:
    folder, outside = tmp_path / "kv", tmp_path / "outside"
    place = folder / name
    place.parent.mkdir(parents=True)
    (outside.mkdir if name == FINGERPRINT.hex() else outside.touch)()
    os.utime(outside, (1, 1))
    os.mkfifo(place) if what == "pipe" else place.symlink_to(outside)
    with opened(folder) as store:
        save(store, PROMPT)
        assert found(store, PROMPT) == 300
        store._tiers[-1].sweep()
    assert outside.stat().st_mtime == 1
    assert not place.is_symlink()


@pytest.mark.parametrize("links", [True, False])
def test_stores_that_begin_at_once_have_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    gate = threading.Barrier(8)

    def begin(_: int) -> bytes:
        gate.wait(30)
        return until(lambda: _tried(tmp_path / "kv"), "a key")

    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(begin, range(8)))
    assert len(keys) == 1
    assert [path.name for path in (tmp_path / "kv").iterdir()] == [".key"]
    assert (tmp_path / "kv" / ".key").stat().st_mode & 0o777 == 0o600


def _tried(folder: Path) -> bytes | None:
    try:
        return key.of_folder(folder)
    except OSError:  # half of it is there
        return None


def test_a_key_whose_writer_has_crashed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / ".key"
    path.touch()
    with pytest.raises(OSError, match="not complete"):
        key.of_folder(tmp_path)
    assert path.stat().st_size == 0  # somebody may be writing it
    os.utime(path, (time.time() - 61, time.time() - 61))
    secret = key.of_folder(tmp_path)
    assert secret == path.read_bytes() == key.of_folder(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".key"]


def test_a_key_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(bytes(32))
    (tmp_path / ".key").symlink_to(tmp_path / "mine")
    with pytest.raises(whole_files.NotRegularError):
        key.of_folder(tmp_path)
    with opened(tmp_path) as store:
        save(store, PROMPT)
        assert found(store, PROMPT) == 0
        assert store.stats().discards["io_error"] > 0
    assert not files(tmp_path)


def test_a_given_key_is_that_of_its_text(tmp_path: Path) -> None:
    secret = key.of_text(b"0123456789abcdef" * 2 + b"\n")
    assert secret == key.of_text(b" " + b"0123456789abcdef" * 2)
    for short in (b"", b"x" * 31, b" " * 99):
        with pytest.raises(ValueError, match="32 bytes"):
            key.of_text(short)
    with opened(tmp_path, secret=secret) as store:
        save(store, PROMPT)
        assert found(store, PROMPT) == 300
    assert not (tmp_path / ".key").exists()
    with opened(tmp_path, secret=key.of_text(b"x" * 32)) as store:
        assert found(store, PROMPT) == 0
    with opened(tmp_path, secret=secret) as store:
        assert found(store, PROMPT) == 300


def test_a_volume_that_hangs_stops_no_listing_and_no_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, hangs, open_regular = threading.Event(), threading.Event(), whole_files.open_regular
    with opened(tmp_path, ram_bytes=-1) as store:
        save(store, PROMPT)
        store._tiers[0].clear()

        def hanging(path: Path, flags: int = os.O_RDONLY) -> int:
            if path.suffix == ".block" and flags == os.O_RDONLY:
                hangs.set()
                assert gate.wait(60)
            return open_regular(path, flags)

        monkeypatch.setattr(whole_files, "open_regular", hanging)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(found, store, PROMPT)
            assert hangs.wait(30)
            assert len(store.listing()) == 5  # blocks, as they were listed last
            save(store, OTHER)
            assert store.stats().entries == 10
            assert not waits.done()
            gate.set()
            assert waits.result(30) == 300


@pytest.mark.parametrize("wrong", [-400 * DAY, 400 * DAY])
def test_a_server_whose_clock_is_wrong_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    right = time.time
    with opened(tmp_path, fingerprint=b"another model 16", ttl=3600) as store:
        save(store, OTHER)
    with opened(tmp_path, ttl=3600) as store:
        save(store, PROMPT)
    monkeypatch.setattr(time, "time", lambda: right() + wrong)
    with opened(tmp_path, ttl=3600) as store:
        assert found(store, PROMPT) == 300  # and marks it as used
        save(store, array("q", range(2000, 2100)))
        store._tiers[-1].sweep()
        assert not store.stats().discards
    monkeypatch.setattr(time, "time", right)
    with opened(tmp_path, ttl=3600) as store:
        store._tiers[-1].sweep()
        assert found(store, PROMPT) == 300
        assert len(files(tmp_path)) == 12
        assert all(abs(path.stat().st_mtime - right()) < 60 for path in files(tmp_path))
