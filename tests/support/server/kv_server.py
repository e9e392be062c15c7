"""Real servers on a KV store, and conversations with them that tell how much of a prompt was evaluated."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

LONG = "the llama and one image of the world, " * 12
QUICK = ("-t", "1", "-c", "2048", "-np", "2", "-cb", "--metrics", "-fa", "off", "--drain-delay", "0")


def kept(folder: Path) -> tuple[str, ...]:
    """The options of a store. The files of the tiny models are small: nothing is too short to keep."""
    return ("--kv-store", str(folder), "--kv-store-min-tokens", "0")


@contextmanager
def serving(model: Path, folder: Path | None, *options: object) -> Iterator[tuple[ServerProcess, Client]]:
    """A server with its store in that folder, or without one."""
    stored = kept(folder) if folder else ()
    with ServerProcess("-m", str(model), *QUICK, *stored, *map(str, options)) as server:
        yield server, Client(server.url)


def saved(client: Client, count: float = 1) -> None:
    """Wait until so many conversations have been written."""
    until(lambda: client.metric("llamaserver:kv_saves_total") >= count, "the conversation is saved")


def terminate(server: ServerProcess) -> None:
    """Let it drain; it must end well."""
    assert server.stop(signal.SIGTERM) == 0, server.log[-2000:]


def turn(client: Client, history: list[int], n_predict: int = 12, **fields: Any) -> Any:
    """The answer to tokens, with its own."""
    return client.complete(history, n_predict=n_predict, return_tokens=True, ignore_eos=True, **fields)


def conversation(client: Client, text: str = LONG, **fields: Any) -> tuple[list[int], str]:
    """One turn: everything said so far and the next question, and what the answer was."""
    tokens = client.post("/tokenize", content=text, add_special=True)["tokens"]
    answer = turn(client, tokens, **fields)
    return [*tokens, *answer["tokens"], 300, 301, 302], answer["content"]
