"""The disk tier beside others: files that come and go, disks that fail for a moment, and how full they get."""

import errno
import fcntl
import os
from array import array
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llamaserver import files as atomic

from tests.support.engine.driver import tokens
from tests.support.engine.kv import files, found, opened, save, total


def keys(count: int, seed: int = 0) -> "array[int]":
    return array("q", tokens(count, seed))


class Listing(list[Any]):
    """A listing that is complete before anybody looks at an entry."""

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_files_that_others_finish_cut_no_sweep_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the listing and the look at a file, its writer has renamed it."""
    size = _size_of(tmp_path / "measured", 100)
    with opened(tmp_path / "kv", max_bytes=2 * size) as store:
        folder = next(path for path in (tmp_path / "kv").iterdir() if path.is_dir())
        scan = os.scandir

        def scandir(path: Any) -> Listing:
            (folder / ".tmp-other").write_bytes(b"")
            entries = Listing(scan(path))
            (folder / ".tmp-other").unlink()
            return entries

        monkeypatch.setattr(os, "scandir", scandir)
        for seed in range(4):
            save(store, keys(100, seed))
        monkeypatch.undo()
        assert store.stats().discards["evicted"] > 0
    assert total(tmp_path / "kv") <= 2 * size


def test_a_disk_that_fails_once_costs_one_prompt_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "kv") as store:
        save(store, keys(200))
        with monkeypatch.context() as patched:
            patched.setattr("llamaserver.files.open_regular", _failing)
            assert found(store, keys(200)) == 0
            assert store.stats().discards["io_error"] > 0
        assert found(store, keys(200)) == 200
        save(store, keys(200))
    assert len(files(tmp_path)) == 4


def _failing(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


class ShortReads(FileIO):
    """A file that gives at most 100 bytes at once, as Linux gives at most 2 GiB."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(100)

    def readinto(self, buffer: Any, /) -> int:
        return super().readinto(memoryview(buffer)[:100])


def test_a_block_that_takes_several_reads_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "kv") as store:
        save(store, keys(200))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdopen", lambda handle, *_, **__: ShortReads(handle))
            assert found(store, keys(200)) == 200
        assert "torn" not in store.stats().discards
    assert len(files(tmp_path)) == 4


def test_blocks_of_another_owner_end_no_marking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a file's owner may set its time. All others may set the present, where they may write."""
    with opened(tmp_path / "kv") as store:
        save(store, keys(200))
        blocks = sorted(store._tiers[-1].index.all(), key=lambda block: block.start)
        folder, utime, refused = store._tiers[-1]._folder, os.utime, [block.name for block in blocks[-2:]]
        for block in blocks:
            utime(folder / block.name, (1, 1))

        def others(path: Any, times: Any = None, **options: Any) -> None:
            if getattr(path, "name", "") == refused[0] or (times and getattr(path, "name", "") == refused[1]):
                raise PermissionError(errno.EPERM, "not the owner")
            utime(path, times, **options)

        monkeypatch.setattr(os, "utime", others)
        store._tiers[-1]._touched.clear()
        store._tiers[-1].touch(blocks)
        monkeypatch.undo()
        marked = [block.name for block in blocks if (folder / block.name).stat().st_mtime > 1]
    assert marked == [block.name for block in blocks if block.name != refused[0]]
    assert len(marked) == 3


def test_without_a_limit_some_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = _size_of(tmp_path / "measured", 1000)
    size, others = 5 * one, 0

    def statvfs(_: Path) -> SimpleNamespace:
        return SimpleNamespace(f_blocks=size, f_frsize=1, f_bavail=size - total(tmp_path / "kv") - others)

    monkeypatch.setattr(os, "statvfs", statvfs)
    with opened(tmp_path / "kv") as store:
        for seed in range(12):
            save(store, keys(1000, seed))
            assert found(store, keys(1000, seed)) == 1000
            assert total(tmp_path / "kv") <= size * 0.95
        assert total(tmp_path / "kv") >= 3 * one
        others = size
        save(store, keys(1000, 77))
        assert store.stats().discards["disk_full"] == 1


def test_the_bytes_written_tell_how_far_a_large_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain follows them: a conversation of gigabytes takes minutes."""
    seen: list[int] = []
    monkeypatch.setattr(atomic, "SYNC_EVERY", 4096)
    with opened(tmp_path / "kv", whole=True) as store:
        monkeypatch.setattr(os, "fdatasync", lambda handle: seen.append(store.stats().bytes_written))
        save(store, keys(1000))
        assert found(store, keys(1000) + keys(1)) == 1000
    assert len(seen) > 3
    assert seen == sorted(set(seen))


def _size_of(folder: Path, count: int) -> int:
    with opened(folder) as store:
        save(store, keys(count))
    return total(folder)


def test_while_another_process_sweeps_the_folder_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has gone, so there is nothing to look for. A listing would hold up every prompt."""
    size = _size_of(tmp_path / "measured", 100)
    with opened(tmp_path / "kv", max_bytes=2 * size) as store:
        for seed in range(2):
            save(store, keys(100, seed))
        listings, scan = [], os.scandir
        with (tmp_path / "kv" / ".lock").open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            monkeypatch.setattr(os, "scandir", lambda path: (listings.append(path), scan(path))[1])
            save(store, keys(100, 2))
            save(store, keys(100, 3))
            assert not listings
        save(store, keys(100, 4))
        assert listings
        assert store.stats().discards["evicted"] > 0


def test_the_bytes_told_are_those_on_the_disk(tmp_path: Path) -> None:
    """Also after a save that had to make room, or that replaced a shorter block."""
    size = _size_of(tmp_path / "measured", 100)
    with opened(tmp_path / "kv", max_bytes=3 * size) as store:
        for seed in range(6):
            save(store, keys(90, seed))
            save(store, keys(100, seed))
            assert store.stats().bytes == total(tmp_path / "kv")
