"""Slot files have a quota, and one of them is in memory at a time."""

import asyncio
import os
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llamaserver.api import slotfile
from llamaserver.api.slot_quota import SlotQuota
from llamaserver.errors import InsufficientStorage, InvalidRequest, Unavailable

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess
from tests.support.server.traffic import at_once


def write(folder: Path, name: str, size: int) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_all_folders_count_and_a_file_that_is_replaced_does_not(tmp_path: Path) -> None:
    quota = SlotQuota(tmp_path, max_bytes=1000, max_files=3)
    old = write(tmp_path, "one", 600)
    write(tmp_path, "one.sha256", 50)
    write(tmp_path, ".tmp-left", 5000)
    write(tmp_path, "user-x/two", 300)
    quota.check(old, 650)
    quota.check(old, 600)
    with pytest.raises(InsufficientStorage, match="--slot-save-max-bytes"):
        quota.check(old, 651)
    with pytest.raises(InsufficientStorage, match="--slot-save-max-bytes"):
        quota.check(tmp_path / "three", 51)
    write(tmp_path, "three", 1)
    quota.check(old, 0)
    with pytest.raises(InsufficientStorage, match="3 slot files already"):
        quota.check(tmp_path / "four", 0)
    SlotQuota(tmp_path, 0, 0).check(tmp_path / "four", 1 << 40)


def test_a_file_that_does_not_grow_is_always_saved(tmp_path: Path) -> None:
    """Also where a folder of an older version has more than the limits allow."""
    quota = SlotQuota(tmp_path, max_bytes=1000, max_files=1)
    files = [write(tmp_path, name, 900) for name in ("one", "two")]
    quota.check(files[0], 900)
    quota.check(files[1], 0)
    with pytest.raises(InsufficientStorage, match="--slot-save-max-bytes"):
        quota.check(files[0], 901)


def test_only_slot_files_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = SlotQuota(tmp_path / "later", max_bytes=1000, max_files=2)
    quota.check(quota.folder / "one", 1000)  # saving makes the folder
    quota.folder.mkdir()
    write(quota.folder, "models/large", 5000)
    write(quota.folder, "user-x/one", 500)
    quota.check(quota.folder / "two", 500)
    with pytest.raises(InsufficientStorage, match="--slot-save-max-bytes"):
        quota.check(quota.folder / "two", 501)
    scan = os.scandir

    def unreadable(folder: Path) -> object:
        if folder.name == "user-x":
            raise PermissionError(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", unreadable)
    quota.check(quota.folder / "two", 1000)


def test_one_client_cannot_take_all_places(tmp_path: Path) -> None:
    quota = SlotQuota(tmp_path, 0, 0)
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(quota.place("a"))
        with pytest.raises(Unavailable, match="of this client"), quota.place("a"):
            pass
        with quota.place("b"):
            pass
    with quota.place("a"):
        pass


def test_a_missing_folder_and_files_that_vanish_count_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SlotQuota(tmp_path / "missing", max_bytes=10, max_files=1).check(tmp_path / "missing" / "one", 10)
    gone, scan = write(tmp_path, "gone", 600), os.scandir

    def scandir(folder: Path) -> Any:
        entries = list(scan(folder))
        gone.unlink()
        return nullcontext(entries)

    monkeypatch.setattr(os, "scandir", scandir)
    SlotQuota(tmp_path, max_bytes=10, max_files=1).check(tmp_path / "one", 10)


async def test_requests_take_turns_and_few_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaserver.api.slot_quota._MOST_WAITING", 3)
    quota, inside, most = SlotQuota(tmp_path, 0, 0), 0, 0

    async def one() -> None:
        nonlocal inside, most
        async with quota.turn():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    results = await asyncio.gather(*(one() for _ in range(5)), return_exceptions=True)
    assert most == 1
    assert [type(result) for result in results] == [type(None)] * 3 + [Unavailable] * 2
    await one()


def read(path: Path, *, most_tokens: int = 100, most_bytes: int = 10_000) -> tuple[tuple[int, ...], bytes]:
    tokens, state, _ = slotfile.read(path, 1000, 1, most_tokens=most_tokens, most_bytes=most_bytes)
    return tokens, bytes(state)


def test_a_file_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    size = slotfile.write(path, (1, 2, 3), memoryview(np.arange(100, dtype=np.uint8)), 1)
    assert size == slotfile.size((1, 2, 3), bytes(100)) == path.stat().st_size
    assert read(path) == ((1, 2, 3), bytes(range(100)))
    with pytest.raises(InvalidRequest, match="3 saved tokens do not fit a slot of 2"):
        read(path, most_tokens=2)
    with pytest.raises(InvalidRequest, match="at most 99 are allowed"):
        read(path, most_bytes=99)


def test_pipes_links_and_sparse_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe", "link", "sparse"):
        with pytest.raises(InvalidRequest):
            read(tmp_path / name)


@pytest.mark.model
def test_a_client_cannot_fill_the_volume(tmp_path: Path) -> None:
    folder = tmp_path / "slots"
    options = ("--slot-save-path", str(folder), "--slot-save-max-bytes", "20000000", "--slot-save-max-files", "8")
    with ServerProcess("-m", str(model_path()), "-c", "1024", "-np", "1", *options) as process:
        client = Client(process.url)
        client.complete(list(range(100, 300)), n_predict=1)

        def save(number: int) -> int:
            return client.http.post("/slots/0?action=save", json={"filename": f"file-{number}"}).status_code

        statuses = at_once(save, range(60), 12)
        files = [path for path in folder.iterdir() if path.suffix != ".sha256"]
        assert set(statuses) == {200, 507}
        assert statuses.count(200) == len(files) <= 8
        assert sum(path.stat().st_size for path in folder.iterdir()) < 20_100_000
        name = files[0].name
        for path in files[1:]:
            path.write_bytes(bytes(20_000_000))  # as before the limits were lowered
        error = client.error("/slots/0?action=save", {"filename": "other"}, 507)
        assert "--slot-save-max" in error["message"]
        client.post("/slots/0?action=save", filename=name)
        assert client.post("/slots/0?action=restore", filename=name)["n_restored"] == 200
