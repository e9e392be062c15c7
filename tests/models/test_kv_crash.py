"""Real servers killed while they save: an answer that has ended is kept, and what is left never changes another."""

import random
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client, read_events
from tests.support.server.forked_server import ForkedServer
from tests.support.server.kv_server import LONG, QUICK, conversation, kept, serving, turn

pytestmark = pytest.mark.model
PROMISE = 2.0  # seconds after an answer's end
LIVES = 300
SMALL = 600_000  # bytes: room for fewer conversations than there are
UNSOUND = {"torn", "forged", "foreign", "collision", "other_layout", "defect"}


# ---- the promise


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", ()), ("llama", ("--kv-unified",)), ("gemma2", ()), ("mamba", ())],
    ids=["llama", "llama-unified", "gemma2", "mamba"],
)
def test_a_crash_two_seconds_after_an_answer_loses_nothing_of_it(
    models: Models, kind: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    """Of two conversations at once, and of both turns of each. Nobody looks whether they are saved."""
    model = getattr(models, kind)()

    def talk(client: Client, name: str) -> list[int]:
        history, _ = conversation(client, f"{name} {LONG}")
        return [*history, *turn(client, history)["tokens"], 303, 304]

    with serving(model, tmp_path, *options) as (server, client):
        with ThreadPoolExecutor() as pool:
            histories = list(pool.map(lambda name: talk(Client(client.url), name), ("one", "two")))
        _let_pass(PROMISE)
        server.stop(signal.SIGKILL)
    with serving(model, tmp_path, *options) as (_, client):
        for history in histories:
            timings = turn(client, history)["timings"]
            assert (timings["cache_source"], timings["prompt_n"] <= 4) == ("disk", True), timings


def test_nor_while_others_are_answered(models: Models, tmp_path: Path) -> None:
    """A stream has the server decode all the time, which saves beside it."""
    roomy = ("-c", "65536")  # the stream must not end
    with serving(models.llama(), tmp_path, *roomy) as (server, client):
        started = threading.Event()
        stream = threading.Thread(target=_stream, args=(server.url, started), daemon=True)
        stream.start()
        assert started.wait(30)
        history, _ = conversation(client)
        _let_pass(PROMISE)
        assert stream.is_alive()
        server.stop(signal.SIGKILL)
        stream.join(30)
    with serving(models.llama(), tmp_path, *roomy) as (_, client):
        timings = turn(client, history)["timings"]
        assert (timings["cache_source"], timings["prompt_n"] <= 5) == ("disk", True), timings


def _let_pass(seconds: float) -> None:
    """Time in which the machine runs: while it stands still, the server cannot save either."""
    looks = iter(range(round(seconds / 0.02)))
    until(lambda: next(looks, None) is None, "time passes", deadline=seconds + 60, pause=0.02)


def _stream(url: str, started: threading.Event) -> None:
    body = {"prompt": "stream", "n_predict": -1, "ignore_eos": True, "stream": True}
    try:
        with httpx2.stream("POST", f"{url}/completion", json=body, timeout=60, trust_env=False) as answer:
            for _ in read_events(answer.iter_lines()):
                started.set()
    except httpx2.HTTPError:
        return


# ---- any moment


@pytest.mark.slow
def test_killed_hundreds_of_times_while_saving(models: Models, tmp_path: Path) -> None:
    """Two servers at a time on one folder that is too small, each killed while it saves, evicts and reads.

    Every life begins with one answer, the last one with all of them: bit for bit those of a server without a store.
    """
    prompts = [f"{number} {LONG}" for number in range(10)]
    with serving(models.llama(), None) as (_, client):
        wanted = [_ask(client, prompt) for prompt in prompts]
    limited = ("--kv-store-max-bytes", str(SMALL))
    restored: list[int] = []

    def live(life: int) -> None:
        order = random.Random(life)
        with ForkedServer("-m", str(models.llama()), *QUICK, *kept(tmp_path), *limited) as server:
            number = order.randrange(len(prompts))
            client = server.client()
            answer = _ask(client, prompts[number])
            assert _words(answer) == _words(wanted[number]), f"life {life}"
            restored.append(answer["timings"]["cache_n"])
            assert not _discards(client) & UNSOUND, server.log[-4000:]
            others = threading.Thread(target=_ask_all, args=(client, order.sample(prompts, len(prompts))), daemon=True)
            others.start()
            others.join(order.random() * 0.2)  # the moment is what is tested
            server.kill()
            others.join(30)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(live, range(LIVES)))
    assert len(list(tmp_path.rglob(".tmp-*"))) > LIVES // 20  # so many died over half a file
    assert sum(length > 0 for length in restored) > LIVES // 20
    with serving(models.llama(), tmp_path, *limited) as (_, client):
        for prompt, answer in zip(prompts, wanted, strict=True):
            assert _words(_ask(client, prompt)) == _words(answer)
        assert not _discards(client) & UNSOUND


def _ask(client: Client, prompt: str) -> Any:
    return client.complete(prompt, n_predict=4, n_probs=5, return_tokens=True)


def _words(answer: Any) -> Any:
    """All that an answer says, with the numbers behind it."""
    return answer["content"], answer["tokens"], answer["completion_probabilities"]


def _ask_all(client: Client, prompts: list[str]) -> None:
    with suppress(httpx2.HTTPError):
        for prompt in prompts:
            client.complete(prompt, n_predict=2)


def _discards(client: Client) -> set[str]:
    """Why files were not kept or not used."""
    return set(re.findall(r'^llamaserver:kv_discards_total\{reason="(\w+)"\}', client.http.get("/metrics").text, re.M))
