"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from llamaserver import files


def test_the_parts_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    assert files.write_atomically(path, [b"new ", memoryview(b"text")], durable=False) == 8
    assert path.read_text() == "new text"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o666, 0o644)])
def test_the_mode_is_subject_to_the_umask(tmp_path: Path, mode: int, expected: int) -> None:
    before = os.umask(0o022)
    try:
        files.write_atomically(tmp_path / "file", [b"x"], durable=False, mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected


def test_the_time_of_the_file_can_be_given(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / "file", [b"x"], durable=True, modified=1000.5)
    assert (tmp_path / "file").stat().st_mtime == 1000.5


def _broken() -> Iterator[bytes]:
    yield b"new"
    raise RuntimeError


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        files.write_atomically(path, _broken(), durable=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_a_durable_file_is_synced_on_the_way_and_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    log: list[str] = []
    for name in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, name, lambda _, name=name: log.append(name))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *names: (log.append("rename"), rename(*names)))
    monkeypatch.setattr(files, "SYNC_EVERY", 4)
    files.write_atomically(tmp_path / "file", [b"12", b"34", b"567890"], durable=durable)
    assert log == (["fdatasync", "fdatasync", "fsync", "rename"] if durable else ["rename"])
    assert (tmp_path / "file").read_bytes() == b"1234567890"
