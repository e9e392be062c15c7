"""Shared by the tests of special models: the generated files, and servers that must survive."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.models import Models
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

Serve = Callable[..., Iterator[Client]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Generated model files, written once a session."""
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def serve() -> Callable[..., "contextmanager[Client]"]:
    """Start a server on a model and talk to it; it must still run when the tests are done with it."""

    @contextmanager
    def run(model: Path, *options: str | Path) -> Iterator[Client]:
        arguments = ("-m", model, "-t", "1", "--metrics", "--warmup", *options)
        with ServerProcess(*map(str, arguments)) as server:
            yield Client(server.url)
            assert server.process is not None
            assert server.process.poll() is None, server.log[-4000:]

    return run
