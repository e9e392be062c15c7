"""Clients that act at random: requests of all kinds, mistakes, and disconnects in every phase of a request."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

WORDS = "the old house by sea has a red door and no one knows who lives there since winter came early this year".split()
# Statuses of the server's own errors that the documentation names: a queue that is full, and embeddings that are off.
DOCUMENTED = {501: "/v1/embeddings", 503: ""}

Act = Callable[["Client"], Awaitable[None]]


@dataclass(slots=True)
class Tally:
    """What has happened so far. `wrong` has the errors that must not be."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def status(self, path: str, status: int, retry_after: bool) -> None:
        """Count an answer."""
        self.statuses[path.partition("?")[0], status] += 1
        documented = path.startswith(DOCUMENTED.get(status, "/none")) and (status != 503 or retry_after)
        if status >= 500 and not documented:
            self.wrong.append(f"{path} answered {status}")


@dataclass(slots=True)
class Client:
    """One client with one API key, which does one thing after the other."""

    url: str
    key: str
    tally: Tally
    random: random.Random
    session: aiohttp.ClientSession

    async def run(self, stop: asyncio.Event) -> None:
        """Act until told to stop."""
        while not stop.is_set():
            (act,) = self.random.choices(list(ACTS), list(ACTS.values()))
            self.tally.acts[act.__name__] += 1
            with contextlib.suppress(aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError):
                await act(self)

    def text(self, least: int = 3, most: int = 60) -> str:
        """Some words. Many begin alike, as conversations do."""
        start = f"Story {self.random.randrange(40)}. "
        return start + " ".join(self.random.choices(WORDS, k=self.random.randint(least, most)))

    def completion(self, **fields: Any) -> dict[str, Any]:
        """A body for /completion."""
        return {"prompt": self.text(), "n_predict": self.random.randint(1, 40), **fields}

    def chat(self, **fields: Any) -> dict[str, Any]:
        """A body for /v1/chat/completions."""
        messages = [{"role": "user", "content": self.text()}]
        return {"messages": messages, "max_tokens": self.random.randint(1, 40), **fields}

    async def post(self, path: str, body: Any, key: str | None = None) -> bytes:
        """Ask, and read the whole answer."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url + path, data=data, headers=headers) as answer:
            read = await answer.read()
            self.tally.status(path, answer.status, "Retry-After" in answer.headers)
            return read

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection without a request."""
        parts = urlsplit(self.url)
        return await asyncio.open_connection(parts.hostname, parts.port)

    def head(self, length: int) -> bytes:
        """The head of a completion with a body of this length."""
        lines = (
            "POST /completion HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {self.key}",
            f"Content-Length: {length}",
        )
        return "\r\n".join((*lines, "", "")).encode()


# ---- requests that end well


async def completes(client: Client) -> None:
    """One answer."""
    await client.post("/completion", client.completion())


async def chats(client: Client) -> None:
    """One answer of the other dialect."""
    await client.post("/v1/chat/completions", client.chat(n=client.random.choice((1, 1, 2))))


async def streams(client: Client) -> None:
    """A whole stream."""
    body = client.chat(stream=True)
    read = await client.post("/v1/chat/completions", body)
    if read.startswith(b"data: ") and not read.endswith(b"data: [DONE]\n\n"):
        client.tally.wrong.append(f"a stream ended with {read[-200:]!r}")


async def asks_for_json(client: Client) -> None:
    """An answer under a grammar."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    await client.post("/completion", client.completion(json_schema=schema))


async def tokenizes(client: Client) -> None:
    """No generation."""
    await client.post("/tokenize", {"content": client.text(most=400)})


async def saves_a_slot(client: Client) -> None:
    """Save, restore, erase."""
    slot, name = client.random.randrange(4), f"{client.random.randrange(3)}.bin"
    for action in ("save", "restore", "erase"):
        await client.post(f"/slots/{slot}?action={action}", {"filename": name})


# ---- mistakes


async def errs(client: Client) -> None:
    """What is refused."""
    kind = client.random.randrange(5)
    if kind == 0:
        await client.post("/v1/embeddings", {"input": client.text()})
    elif kind == 1:
        await client.post("/completion", b'{"prompt": ')
    elif kind == 2:
        await client.post("/completion", client.completion(grammar="root ::= ("))
    elif kind == 3:
        await client.post("/completion", client.completion(), key="wrong")
    else:
        await client.post("/completion", client.completion(temperature="hot"))


# ---- disconnects


async def leaves_at_once(client: Client) -> None:
    """After the connection, or in the middle of a head."""
    _, writer = await client.raw()
    writer.write(client.head(10)[: client.random.choice((0, 20))])
    writer.close()


async def leaves_in_the_body(client: Client) -> None:
    """Before the request is complete."""
    _, writer = await client.raw()
    writer.write(client.head(500) + b'{"prompt": "')
    await writer.drain()
    await asyncio.sleep(client.random.random() / 10)
    writer.close()


async def leaves_before_the_answer(client: Client) -> None:
    """While the prompt waits or is evaluated."""
    body = json.dumps(client.completion(prompt=client.text(100, 400), n_predict=50)).encode()
    _, writer = await client.raw()
    writer.write(client.head(len(body)) + body)
    await writer.drain()
    await asyncio.sleep(client.random.random() * 2)
    if client.random.random() < 0.5:
        writer.transport.abort()
    writer.close()


async def leaves_in_the_stream(client: Client) -> None:
    """After some tokens."""
    body = json.dumps(client.completion(stream=True, n_predict=200)).encode()
    reader, writer = await client.raw()
    writer.write(client.head(len(body)) + body)
    for _ in range(client.random.randint(1, 8)):
        if not await reader.readline():
            break
    writer.close()


async def keeps_silent(client: Client) -> None:
    """A connection without a request, until the server closes it or for a while."""
    reader, writer = await client.raw()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(), client.random.choice((0.5, 15)))
    writer.close()


ACTS: dict[Act, int] = {
    completes: 20, chats: 20, streams: 20, asks_for_json: 4, tokenizes: 5, saves_a_slot: 4, errs: 8,
    leaves_at_once: 4, leaves_in_the_body: 4, leaves_before_the_answer: 6, leaves_in_the_stream: 8, keeps_silent: 1,
}  # fmt: skip
