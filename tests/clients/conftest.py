"""One server for all clients."""

from collections.abc import Iterator

import pytest

from tests.support.paths import model_path
from tests.support.server.process import ServerProcess


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The address of a server with the default model and two slots of 4,096 tokens."""
    with ServerProcess("-m", str(model_path()), "-c", "8192", "-np", "2", "-cb", "--alias", "default") as server:
        yield server.url
