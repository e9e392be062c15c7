"""The KV store on its own: what is written, how much of it, what is found again, and what failures cost."""

import os
import random
import shutil
import signal
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamaserver.interfaces.keys import common_prefix
from llamaserver.kvstore import disk
from llamaserver.kvstore.blockfile import head_size
from llamaserver.kvstore.counters import StoreCounters
from llamaserver.kvstore.disk import DiskTier
from llamaserver.kvstore.identity import BLOCK
from llamaserver.kvstore.messages import Lookup
from llamaserver.kvstore.volume import Limits

from tests.support.engine.kv import files, find, found, opened, save, total
from tests.support.engine.toy import STATE_BYTES
from tests.support.polling import until
from tests.support.volumes import tmpfs

TOKEN = STATE_BYTES + 8  # bytes of a token in a file: its state and its key


def keys(count: int, seed: int = 0) -> "array[int]":
    return array("q", [(seed * 1000003 + i * i * 7 + i) % 50000 for i in range(count)])


# ---- round trips


@pytest.mark.parametrize("tiers", ["ram", "disk", "both"])
def test_what_is_saved_is_found_again(tmp_path: Path, tiers: str) -> None:
    folder = None if tiers == "ram" else tmp_path / "kv"
    with opened(folder, ram_bytes=0 if tiers == "disk" else -1) as store:
        save(store, keys(500))
        offer = find(store, keys(500) + keys(20, 1))
        assert offer is not None
        assert (offer.length, offer.tier) == (500, "disk" if tiers == "disk" else "ram")
        assert found(store, keys(333) + keys(20, 1)) == 333
        assert found(store, keys(500, 2)) == 0
        stats = store.stats()
        assert stats.misses == ({"ram": 1, "disk": 1} if tiers == "both" else {tiers: 1})
        assert (stats.lookups, stats.discards) == (3, {})


def test_it_outlives_the_process_and_is_private(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as store:
        save(store, keys(200))
    with opened(tmp_path / "kv") as store:
        offer = find(store, keys(200))
        assert offer is not None
        assert (offer.length, offer.tier) == (200, "disk")
        assert store.stats().entries == 4
    assert {oct(path.stat().st_mode & 0o777) for path in files(tmp_path)} == {"0o600"}
    folders = [path for path in (tmp_path / "kv", *(tmp_path / "kv").iterdir()) if path.is_dir()]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o700"}


@pytest.mark.parametrize("ram", [0, -1])
def test_whole_states_are_kept_for_models_that_cannot_be_cut(tmp_path: Path, ram: int) -> None:
    with opened(tmp_path / "kv", whole=True, ram_bytes=ram) as store:
        save(store, keys(100))
        save(store, keys(150))
        assert found(store, keys(149)) == 100
        assert found(store, keys(180)) == 150
        assert found(store, keys(99)) == 0
    assert len(files(tmp_path)) == 2


def test_other_models_and_scales_are_misses(tmp_path: Path) -> None:
    adapters = (b"a" * 32, b"b" * 32)
    with opened(tmp_path / "kv", adapters=adapters) as store:
        save(store, keys(200), (1.0, 0.0))
        assert found(store, keys(200), (1.0, 0.0)) == 200
        assert found(store, keys(200), (0.5, 0.0)) == found(store, keys(200), (0.0, 1.0)) == 0
    with opened(tmp_path / "kv", fingerprint=b"other" + bytes(11), adapters=adapters) as store:
        assert found(store, keys(200), (1.0, 0.0)) == 0
        assert store.stats().entries == 0


def test_images_are_not_cut(tmp_path: Path) -> None:
    prompt = keys(50) + array("q", [-5 - i for i in range(60)]) + keys(50, 1)
    with opened(tmp_path / "kv") as store:
        save(store, prompt)
        assert found(store, prompt[:90], media=((50, 60),)) == 50
        assert found(store, prompt[:130], media=((50, 60),)) == 130
        other = prompt[:50] + array("q", [-500 - i for i in range(60)]) + prompt[110:]
        assert found(store, other, media=((50, 60),)) == 50


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_history_of_saves_finds_the_longest_prefix(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    small = st.lists(st.integers(0, 2), max_size=3 * BLOCK).map(lambda items: array("q", items))
    saved: list[array[int]] = []
    with opened(tmp_path_factory.mktemp("kv"), ram_bytes=data.draw(st.sampled_from([0, 5000, -1]))) as store:
        for _ in range(data.draw(st.integers(1, 6))):
            base = data.draw(st.sampled_from(saved)) if saved and data.draw(st.booleans()) else array("q")
            one = base[: data.draw(st.integers(0, len(base)))] + data.draw(small)
            save(store, one)
            saved.append(one)
            wanted = one[: data.draw(st.integers(0, len(one)))] + data.draw(small)
            best = max(common_prefix(each, wanted) for each in saved)
            assert found(store, wanted) == (best if best >= 16 else 0)


# ---- how much is written


def test_a_turn_writes_its_new_tokens_and_at_most_one_block(tmp_path: Path) -> None:
    head = head_size(0)
    with opened(tmp_path / "kv") as store:
        length = 100
        for turn in range(12):
            save(store, keys(length))
            before = store.stats().bytes_written
            grown = length + 17 + 11 * turn
            save(store, keys(grown))
            written = store.stats().bytes_written - before
            blocks = -(-grown // BLOCK) - length // BLOCK
            assert written <= (grown - length + BLOCK) * TOKEN + blocks * head
            length = grown
        assert found(store, keys(length)) == length
    # What shorter turns ended with is gone: the folder holds the conversation once.
    assert total(tmp_path) == length * TOKEN + -(-length // BLOCK) * head


def test_a_hundred_conversations_keep_their_system_prompt_once(tmp_path: Path) -> None:
    system, head = keys(640), head_size(0)
    with opened(tmp_path / "kv") as store:
        for number in range(100):
            save(store, system + keys(30, number + 1))
        assert found(store, system + keys(30, 77) + keys(5)) == 670
    assert total(tmp_path) == 640 * TOKEN + 10 * head + 100 * (30 * TOKEN + head)


def test_saving_the_same_again_writes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as store:
        save(store, keys(300))
        written = store.stats().bytes_written
        save(store, keys(300))
        save(store, keys(290))
        assert store.stats().bytes_written == written


def test_every_file_is_synced_then_renamed_then_the_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def logged_fsync(handle: int) -> None:
        log.append(("fsync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def logged_rename(source: Path, target: Path) -> None:
        log.append(("rename", str(source)))
        log.append(("named", str(target)))
        rename(source, target)

    with opened(tmp_path / "kv") as store:
        monkeypatch.setattr(os, "fsync", logged_fsync)
        monkeypatch.setattr(os, "rename", logged_rename)
        save(store, keys(200))
    assert len(log) == 4 * 3 + 1
    for at in range(0, 12, 3):
        (first, path), (second, moved), (_, named) = log[at : at + 3]
        assert (first, second) == ("fsync", "rename")
        assert path == moved != named
    assert log[-1] == ("fsync", str(files(tmp_path)[0].parent))
    order = [int(Path(path).name[:6], 16) for what, path in log if what == "named"]
    assert order == sorted(order)  # whoever finds a block finds those before it


# ---- bounds


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    size = 200 * TOKEN + 4 * head_size(0)
    with opened(tmp_path / "kv", max_bytes=int(3.5 * size)) as store:
        for seed in range(3):
            save(store, keys(200, seed))
            _age(tmp_path, 100)
        assert found(store, keys(200, 0)) == 200  # used now
        save(store, keys(200, 3))
        assert total(tmp_path) <= 3.5 * size
        assert found(store, keys(200, 0)) == found(store, keys(200, 3)) == 200
        assert found(store, keys(200, 1)) < 200
        assert store.stats().discards["evicted"] > 0
        assert store.stats().bytes == total(tmp_path)


def test_of_one_conversation_the_end_goes_before_the_beginning(tmp_path: Path) -> None:
    with opened(tmp_path / "kv", max_bytes=200 * TOKEN + 3 * head_size(0)) as store:
        save(store, keys(200))
        length = found(store, keys(200))
        assert 64 <= length < 200
        assert total(tmp_path) == length * TOKEN + length // BLOCK * head_size(0)


def test_what_is_not_used_expires(tmp_path: Path) -> None:
    with opened(tmp_path / "kv", ttl=50) as store:
        save(store, keys(200, 1))
        _age(tmp_path, 100)
        save(store, keys(200, 2))
    with opened(tmp_path / "kv", ttl=50) as store:
        assert found(store, keys(200, 1)) == 0
        assert found(store, keys(200, 2)) == 200
        assert store.stats().discards == {"expired": 4}


def test_files_of_models_that_nobody_serves_are_collected(tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    for number in (1, 2):
        with opened(folder, fingerprint=bytes([number]) * 16) as store:
            save(store, keys(200))
    old = folder / (b"\1" * 16).hex()
    os.utime(old / ".used", (0, 0))
    (folder / (b"\2" * 16).hex() / ".tmp-left").write_bytes(b"x")
    os.utime(folder / (b"\2" * 16).hex() / ".tmp-left", (0, 0))
    (folder / "something else").mkdir()
    with opened(folder, fingerprint=bytes([3]) * 16) as store:
        assert store.stats().discards["orphan"] == 1
    assert not old.exists()
    assert len(files(folder)) == 4
    assert not list(folder.rglob(".tmp-*"))
    assert (folder / "something else").exists()


def test_a_folder_that_was_collected_meanwhile_is_made_again(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as store:
        save(store, keys(200))
        shutil.rmtree(tmp_path / "kv")
        save(store, keys(300, 1))
        assert found(store, keys(300, 1)) == 300
        assert found(store, keys(200)) == 0


def test_memory_is_bounded_too() -> None:
    with opened(None, ram_bytes=300 * TOKEN) as store:
        for seed in range(4):
            save(store, keys(200, seed))
            assert store.stats().ram_bytes <= 300 * TOKEN
        assert found(store, keys(200, 3)) == 200
        assert found(store, keys(200, 0)) == 0


def test_clear_forgets_everything(tmp_path: Path) -> None:
    with opened(tmp_path / "kv", ram_bytes=-1) as store:
        save(store, keys(200))
        assert len(store.listing()) == 4
        assert store.clear() == 4
        assert store.listing() == []
        assert found(store, keys(200)) == 0
        assert files(tmp_path) == []
        save(store, keys(200))
        assert found(store, keys(200)) == 200


# ---- failures


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_damaged_files_are_misses_and_go(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("kv")
    with opened(folder) as store:
        save(store, keys(300))
    path = data.draw(st.sampled_from(files(folder)))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    start = int(path.name[:6], 16)
    with opened(folder) as store:
        length = found(store, keys(300))  # `find` compares the state with that of the keys
        assert length == (start if start >= 16 else 0)
        assert sum(store.stats().discards.values()) <= 1
        save(store, keys(300))
        assert found(store, keys(300)) == 300


def test_a_file_that_another_process_removes_is_a_miss(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as store:
        save(store, keys(300))
        store.listing()
        for path in files(tmp_path)[2:]:
            path.unlink()
        assert found(store, keys(300)) == 128


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    with tmpfs(tmp_path / "small", "256k") as volume:
        yield volume.path


def test_a_full_disk_costs_old_conversations_only(small_disk: Path) -> None:
    with opened(small_disk / "kv") as store:
        for seed in range(30):
            save(store, keys(1000, seed))
            assert found(store, keys(1000, seed)) == 1000  # the newest is always there
        assert store.stats().discards["evicted"] > 0
        assert total(small_disk) <= 256 * 1024


def test_a_disk_that_others_have_filled_is_a_count(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_PAUSE", 0.0)
    with opened(small_disk / "kv") as store:
        (small_disk / "other").write_bytes(bytes(250 * 1024))
        save(store, keys(1000))
        assert store.stats().discards["disk_full"] == 1
        assert not [path for path in small_disk.rglob(".tmp-*") if path.is_file()]
        (small_disk / "other").unlink()
        save(store, keys(1000))
        assert found(store, keys(1000)) == 1000


def test_without_a_folder_to_write_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with opened(tmp_path / "file" / "kv") as store:
        save(store, keys(200))
        assert found(store, keys(200)) == 0
        assert store.stats().discards["io_error"] > 0


def test_a_state_that_cannot_be_cut_is_declined(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as store:
        store.save(keys(10), (), np.zeros(STATE_BYTES * 10 + 1, np.uint8))
        until(lambda: not store.waiting, "the store has looked")
        assert store.stats().discards == {"cannot_cut": 1}


# ---- several at once


def test_two_stores_share_a_folder(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as one, opened(tmp_path / "kv") as other:
        save(one, keys(200))
        assert found(other, keys(200)) == 200
        save(other, keys(300))
        assert found(one, keys(300)) == 300
        assert one.clear() == 5
        assert found(other, keys(300)) == 0


def test_a_folder_that_takes_long_to_list_is_listed_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of a second and less is nothing; of three seconds, once a minute."""
    now, takes, listed, scandir = 1000.0, 0.0, 0, os.scandir

    def list_slowly(path: Path) -> Any:
        nonlocal now, listed
        now, listed = now + takes, listed + 1
        return scandir(path)

    clock = SimpleNamespace(monotonic=lambda: now, time=time.time, time_ns=time.time_ns)
    monkeypatch.setattr(disk, "time", clock)
    monkeypatch.setattr(os, "scandir", list_slowly)
    tier = DiskTier(tmp_path, bytes(16), Limits(), StoreCounters())
    tier._folder.mkdir()
    for seconds, least, most in ((0.05, 600, 600), (3.0, 9, 11)):
        takes = seconds
        tier.refresh(now=True)
        listed = 0
        for _ in range(600):
            now += 1
            os.utime(tier._folder, (now, now))  # another process has changed it
            tier.refresh()
        assert least <= listed <= most
    listed = 0
    tier.refresh(now=True)
    tier.refresh()
    assert listed == 1


def test_two_stores_write_evict_and_read_together(tmp_path: Path) -> None:
    """Every state that is found is right (`find` compares), whatever the other one removes meanwhile."""
    size = 200 * TOKEN
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with opened(tmp_path / "kv", max_bytes=6 * size) as store:
                for turn in range(60):
                    shared = keys(150, turn % 7)
                    save(store, shared + keys(50 + seed, turn))
                    found(store, shared + keys(50, turn + 1))
                    found(store, keys(200, (turn + 3) % 7))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert failures == []
    assert total(tmp_path) <= 6 * size + 3 * (size + 4 * head_size(0))  # one sweeps while the others write on


# ---- crashes


@pytest.mark.slow
def test_killed_hundreds_of_times_while_writing(tmp_path: Path) -> None:
    """A process that writes, replaces, evicts and reads is killed at random moments; the next one finds no harm."""
    order = random.Random(6)
    lengths = []
    for life in range(200):
        begun, begin = os.pipe()
        child = os.fork()
        if child == 0:
            _write_until_killed(tmp_path / "kv", life, begin)
        os.close(begin)
        if life % 2:  # every other one has saved something
            assert os.read(begun, 1)
        time.sleep(order.random() * 0.04)  # the moment is what is tested
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        with opened(tmp_path / "kv", max_bytes=20 * 200 * TOKEN) as store:
            lengths += [found(store, keys(300, seed)) for seed in range(4)]  # `find` compares every byte
            discards = store.stats().discards
            assert not {"torn", "forged", "foreign", "collision"} & set(discards), discards
    assert len(set(lengths)) > 10  # kills have hit all kinds of moments


def _write_until_killed(folder: Path, life: int, begin: int) -> None:
    try:
        with opened(folder, max_bytes=20 * 200 * TOKEN) as store:
            for turn in range(10_000):
                seed = (life + turn) % 4
                save(store, keys(60 + (37 * turn + life) % 240, seed))
                if turn == 0:
                    os.write(begin, b"1")
                found(store, keys(300, seed))
    finally:
        os._exit(1)


# ---- worth it


def test_a_restore_that_is_slower_than_prefill_is_skipped(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as store:
        save(store, keys(600))
        for length, rate in ((600, 1.0), (511, 0.0), (40, 1000.0)):  # what few tokens take says nothing of many
            offer = find(store, keys(length))
            assert offer is not None
            store.restored(Lookup(keys(length), (), ()), offer, length * rate)
        assert found(store, keys(600), token_seconds=0.001) == 0
        assert store.stats().discards == {"slower_than_prefill": 1}
        assert store.stats().misses == {"disk": 0}
        assert found(store, keys(600), token_seconds=2.0) == 600
        assert found(store, keys(600), have=450, token_seconds=2.0) == 0  # a hundred and fifty tokens against all
        assert found(store, keys(600)) == 600  # nobody knows how long prefill takes


def test_what_is_there_but_too_short_is_no_miss(tmp_path: Path) -> None:
    with opened(tmp_path / "kv", min_tokens=100) as store:
        save(store, keys(150))
        assert found(store, keys(80) + keys(50, 1)) == 0
        assert store.stats().discards == {"too_short": 1}
        assert found(store, keys(10) + keys(120, 1)) == 0  # what all conversations begin with
        assert found(store, keys(150), have=140) == 0  # a block read for ten tokens
        assert store.stats().misses == {"disk": 2}
        assert store.stats().lookups == 3


def test_a_question_counts_once(tmp_path: Path) -> None:
    with opened(tmp_path / "kv") as store:
        lookup = Lookup(keys(200), (), ())
        store.find(lookup)
        until(lambda: lookup.done, "an answer")
        store.decline(lookup, "unwanted")  # it was a miss
        assert (store.stats().misses, store.stats().discards) == ({"disk": 1}, {})
        given_up = Lookup(keys(200), (), (), dropped=True)
        store.decline(given_up, "slow_volume")
        store.find(given_up)
        until(lambda: given_up.done, "it is passed over")
        store.decline(given_up, "unwanted")
        assert (store.stats().misses, store.stats().discards) == ({"disk": 1}, {"slow_volume": 1})


def _age(folder: Path, seconds: float) -> None:
    """All files were used that much earlier; the store will mark them anew."""
    for path in files(folder):
        stat = path.stat()
        os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))
