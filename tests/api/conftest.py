"""One server with the default model for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess


@pytest.fixture(scope="session")
def slot_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared server keeps its slot files."""
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="session")
def server(slot_folder: Path) -> Iterator[ServerProcess]:
    """The shared server: four slots of 1,024 tokens."""
    # fmt: off
    with ServerProcess(
        "-m", str(model_path()), "-c", "4096", "-np", "4", "-cb", "--metrics", "--warmup",
        "--slot-save-path", str(slot_folder),
    ) as process:
        yield process
    # fmt: on


@pytest.fixture(scope="session")
def shared_client(server: ServerProcess) -> Client:
    """A client of the shared server."""
    return Client(server.url)


@pytest.fixture
def client(server: ServerProcess, shared_client: Client) -> Iterator[Client]:
    """The shared client; afterwards the server must be alive and idle again."""
    yield shared_client
    assert server.process is not None
    assert server.process.poll() is None, server.log[-4000:]
    until(lambda: not any(slot["state"] for slot in shared_client.slots()), "all slots idle")
