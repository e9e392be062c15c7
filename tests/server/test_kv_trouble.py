"""Real servers whose KV store is on a read-only, broken or full volume: clients never notice, and it passes."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine.kv import files
from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.kv_server import LONG, conversation, serving, terminate, turn
from tests.support.server.process import ServerProcess
from tests.support.volumes import Volume, ext4, tmpfs

pytestmark = pytest.mark.model
NAMES = ("one", "two", "three", "four", "five")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Models(tmp_path_factory.mktemp("models")).llama()


@pytest.fixture(scope="module")
def wanted(model: Path) -> dict[str, Any]:
    """What a server without a store says in both turns of each conversation."""
    with serving(model, None) as (_, client):
        return {name: both_turns(client, name)[1] for name in NAMES}


@pytest.fixture
def breakable(tmp_path: Path) -> Iterator[Volume]:
    with ext4(tmp_path / "volume", 16 << 20) as volume:
        yield volume


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Volume]:
    with tmpfs(tmp_path / "volume", "4m") as volume:
        yield volume


def both_turns(client: Client, name: str, slot: int = 0) -> tuple[list[int], tuple[str, str]]:
    """All that was said, and the two answers."""
    history, first = conversation(client, f"{name} {LONG}", id_slot=slot)
    second = turn(client, history, id_slot=slot)
    return [*history, *second["tokens"], 303], (first, second["content"])


def talk(client: Client, wanted: dict[str, Any], *names: str) -> dict[str, list[int]]:
    """Conversations at once, a slot each, answered as they would be without a store."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda name, slot: both_turns(Client(client.url), name, slot), names, range(len(names))))
    assert [said for _, said in found] == [wanted[name] for name in names]
    return {name: history for name, (history, _) in zip(names, found, strict=True)}


def told(server: ServerProcess, client: Client, reason: str, message: str) -> None:
    """The trouble is counted, and is in the log, not once a request."""
    sample = f'\nllamaserver:kv_discards_total{{reason="{reason}"}}'  # there from the first one on
    until(lambda: sample in client.http.get("/metrics").text, "the count")

    def said() -> list[str]:
        return [line for line in server.log.splitlines() if "KV store" in line and message in line]

    lines = until(said, "a line in the log")
    assert 1 <= len(lines) <= 3, server.log
    assert all('"WARNING"' in line for line in lines)


def written(folder: Path, *conversations: dict[str, list[int]]) -> None:
    """Wait until the files hold all of them, but for the last answer's last token and what was added to it."""
    tokens = sum(len(history) - 2 for each in conversations for history in each.values())
    until(lambda: sum(int(path.name.split("-")[1], 16) for path in files(folder)) == tokens, "all is written")


def all_on_disk(model: Path, folder: Path, histories: dict[str, list[int]]) -> None:
    """Another server goes on with each conversation from disk."""
    with serving(model, folder) as (_, client):
        for history in histories.values():
            timings = turn(client, history)["timings"]
            assert (timings["cache_source"], timings["prompt_n"] <= 4) == ("disk", True), timings


def test_a_read_only_volume_is_read_and_written_once_it_can_be(
    model: Path, wanted: dict[str, Any], small: Volume
) -> None:
    folder = small.path / "kv"
    with serving(model, folder) as (server, client):
        old = talk(client, wanted, "one")
        terminate(server)
    small.remount("ro")
    before = files(folder)
    with serving(model, folder) as (server, client):
        assert turn(client, old["one"])["timings"]["cache_source"] == "disk"
        new = talk(client, wanted, "two", "three")
        told(server, client, "io_error", "Read-only file system")
        assert files(folder) == before
        small.remount("rw")
        written(folder, old, new)  # nobody asks anything
        server.stop(signal.SIGKILL)
    all_on_disk(model, folder, new)


def test_a_server_starts_on_an_empty_read_only_volume(model: Path, wanted: dict[str, Any], small: Volume) -> None:
    """And what it could not write is written later, though the conversation does not go on."""
    small.remount("ro")
    folder = small.path / "kv"
    with serving(model, folder) as (server, client):
        history, said = conversation(client, f"one {LONG}")
        assert said == wanted["one"][0]
        told(server, client, "io_error", "Read-only file system")
        small.remount("rw")
        histories = {"one": history[:-2]}
        written(folder, histories)
        server.stop(signal.SIGKILL)
    all_on_disk(model, folder, histories)


def test_a_volume_with_input_output_errors_costs_only_its_hits(
    model: Path, wanted: dict[str, Any], breakable: Volume
) -> None:
    folder = breakable.path / "kv"
    with serving(model, folder) as (server, client):
        old = talk(client, wanted, "one")
        others = talk(client, wanted, "two", "three")  # the slots are theirs now
        written(folder, old, others)
        breakable.fail()
        again = turn(client, old["one"])
        assert again["timings"]["cache_n"] <= 1  # with what all prompts begin
        new = talk(client, wanted, "four", "five")
        told(server, client, "io_error", "Input/output error")
        breakable.repair()
        written(folder, old, others, new)
        known = turn(client, old["one"])
        assert known["content"] == again["content"]
        assert known["timings"]["cache_source"] == "disk"
        server.stop(signal.SIGKILL)
    all_on_disk(model, folder, new)


@pytest.mark.parametrize("limit", [0, 3_000_000])
def test_a_full_disk_is_written_again_when_others_have_made_room(
    model: Path, wanted: dict[str, Any], small: Volume, limit: int
) -> None:
    folder = small.path / "kv"
    with serving(model, folder, "--kv-store-max-bytes", limit) as (server, client):
        free = os.statvfs(small.path)
        (small.path / "of others").write_bytes(bytes((free.f_bavail - 1) * free.f_frsize))
        histories = talk(client, wanted, "one", "two")
        told(server, client, "disk_full", "No space left on device")
        assert files(folder) == []
        until(lambda: not list(folder.rglob(".tmp-*")), "nothing half is left")
        (small.path / "of others").unlink()
        written(folder, histories)
        server.stop(signal.SIGKILL)
    all_on_disk(model, folder, histories)
