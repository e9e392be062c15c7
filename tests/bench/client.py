"""The load generator: a process of its own that does next to nothing while it measures.

On few cores each wake-up of the client costs the server, so nothing is parsed before the end: one
epoll loop stamps what arrives. The plan comes as JSON on stdin, the times leave as JSON on stdout;
times are seconds of this process's monotonic clock. Standard library only, it has to start quickly.
"""

import gc
import json
import select
import socket
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from time import monotonic
from typing import Any

DEADLINE = 600.0  # seconds for a whole plan
_RECEIVE = 1 << 18


class Exchange:
    """One request and the stamped bytes of its answer."""

    def __init__(self, port: int, body: dict[str, Any]) -> None:
        self.sent = 0.0
        self.done = False
        self.left = False
        self.events = 0
        self.chunks: list[tuple[float, bytes]] = []
        content = json.dumps(body).encode()
        path = "/v1/chat/completions" if "messages" in body else "/completion"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        self._request = head.encode() + content
        self._address = ("127.0.0.1", port)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect(self) -> None:
        self.socket.connect(self._address)

    def send(self) -> None:
        self.sent = monotonic()
        self.socket.sendall(self._request)
        self.socket.setblocking(False)

    def receive(self) -> None:
        data = self.socket.recv(_RECEIVE)
        now = monotonic()
        if data:
            self.chunks.append((now, data))
            self.events += data.count(b"data: ")
        self.done = not data or data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n"


class Client:
    """Open exchanges, driven by one thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._open: dict[int, Exchange] = {}
        self._end = monotonic() + DEADLINE

    def start(self, exchanges: Sequence[Exchange]) -> None:
        """Send the requests together."""
        for exchange in exchanges:
            exchange.connect()
        for exchange in exchanges:
            exchange.send()
            self._open[exchange.socket.fileno()] = exchange
            self._epoll.register(exchange.socket, select.EPOLLIN)

    def run(self, until: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Receive until the condition holds or the time is over; TimeoutError past the plan's deadline."""
        end = monotonic() + seconds
        while not until() and (left := end - monotonic()) > 0:
            if monotonic() > self._end:
                raise TimeoutError(f"the plan took over {DEADLINE:.0f} s")
            for number, _ in self._epoll.poll(left):
                exchange = self._open[number]
                exchange.receive()
                if exchange.done:
                    self.leave(exchange)

    def leave(self, exchange: Exchange) -> None:
        """Close the connection, finished or not."""
        exchange.left = not exchange.done
        number = exchange.socket.fileno()
        if number in self._open:
            del self._open[number]
            self._epoll.unregister(number)
            exchange.socket.close()


# ---- plans


def together(client: Client, exchanges: list[Exchange]) -> list[Exchange]:
    """All at once, until all have answered."""
    client.start(exchanges)
    client.run(lambda: all(exchange.done for exchange in exchanges))
    return exchanges


def intrusion(client: Client, runners: list[Exchange], intruder: Exchange, after: int) -> list[Exchange]:
    """Once each runner has sent `after` events, one more arrives; the runners are left when it has answered."""
    client.start(runners)
    client.run(lambda: all(runner.events >= after for runner in runners))
    client.start([intruder])
    client.run(lambda: intruder.events > 0 or intruder.done)
    heard = [runner.events for runner in runners]
    client.run(
        lambda: (
            intruder.done
            and all(runner.done or runner.events > before for runner, before in zip(runners, heard, strict=True))
        )
    )
    for runner in runners:
        client.leave(runner)
    return [intruder, *runners]


def desertion(
    client: Client, runners: list[Exchange], deserted: Exchange | None, follower: Exchange, after: int, seconds: float
) -> list[Exchange]:
    """Beside runners, one request is left `seconds` after it was sent; another follows at once.

    Without `deserted` the follower comes alone: that is what the rest is compared with.
    """
    client.start(runners)
    client.run(lambda: all(runner.events >= after for runner in runners))
    if deserted is not None:
        client.start([deserted])
        client.run(lambda: deserted.done, seconds)
        client.leave(deserted)
    client.start([follower])
    client.run(lambda: follower.done and all(runner.done for runner in runners))
    return [follower, *runners, *([deserted] if deserted is not None else [])]


def metronome(client: Client, stream: Exchange, beats: list[Exchange], after: int, seconds: float) -> list[Exchange]:
    """Beside one stream, from `after` events on, another request is sent every `seconds`; all are left at its end."""
    client.start([stream])
    client.run(lambda: stream.events >= after)
    sent = []
    for beat in beats:
        if stream.done:
            break
        client.start([beat])
        sent.append(beat)
        client.run(lambda: stream.done, seconds)
    client.run(lambda: stream.done)
    client.run(lambda: all(beat.done for beat in sent))
    return [stream, *sent]


# ---- what was received


def _pieces(chunks: Sequence[tuple[float, bytes]]) -> tuple[int, Iterator[tuple[float, bytes]]]:
    """Status, and the body's pieces with the time at which each was complete; chunked or up to the end."""
    raw = b"".join(data for _, data in chunks)
    head, found, body = raw.partition(b"\r\n\r\n")
    if not found:
        return 0, iter(())
    ends = list(accumulate(len(data) for _, data in chunks))
    status = int(head.split(b" ", 2)[1])

    def stamped(end: int) -> float:
        return chunks[bisect_left(ends, end)][0]

    def chunked() -> Iterator[tuple[float, bytes]]:
        position = len(head) + 4
        while (line := raw.find(b"\r\n", position)) > 0 and (size := int(raw[position:line], 16)):
            start, end = line + 2, line + 2 + size
            if end > len(raw):
                return
            yield stamped(end), raw[start:end]
            position = end + 2

    if b"transfer-encoding: chunked" in head.lower():
        return status, chunked()
    return status, iter([(chunks[-1][0], body)])


def report(exchange: Exchange) -> dict[str, Any]:
    """One exchange as JSON: event times, token ids and text of each event, the last event's figures."""
    status, pieces = _pieces(exchange.chunks)
    times: list[float] = []
    tokens: list[int] = []
    text, error, final, rest = "", "", None, b""
    for stamp, piece in pieces:
        *blocks, rest = (rest + piece).split(b"\n\n")
        for block in blocks:
            if not block.startswith(b"data: {"):
                error = error or ("" if block.startswith((b":", b"data: [DONE]")) else block.decode(errors="replace"))
                continue
            event = json.loads(block[6:])
            if "error" in event:
                error = json.dumps(event["error"])
                continue
            event = _of_chat(event) if "choices" in event else event
            if event is None:
                continue
            if event.get("content") or not event["stop"]:
                times.append(stamp)
            tokens += event.get("tokens", [])
            text += event["content"]
            final = event if event["stop"] else final
            last = stamp
    if status != 200 and not exchange.left:
        error = error or rest.decode(errors="replace") or "no answer"
    wanted = ("tokens_predicted", "tokens_evaluated")
    return {
        "sent": exchange.sent,
        "status": status,
        "error": error[:500],
        "times": times,
        "ended": last if final else None,
        "tokens": tokens,
        "text": text,
        "final": {name: final[name] for name in wanted} if final else None,
    }


def _of_chat(event: dict[str, Any]) -> dict[str, Any] | None:
    """A chunk of a chat in the form of a completion's event. None for one that brings no text."""
    choice, timings = event["choices"][0] if event["choices"] else {}, event.get("timings")
    delta = choice.get("delta", {})
    calls = [call["function"].get("arguments") or "" for call in delta.get("tool_calls") or ()]
    text = (delta.get("content") or "") + "".join(calls)
    if choice.get("finish_reason") and timings:
        counts = {"tokens_predicted": timings["predicted_n"], "tokens_evaluated": timings["prompt_n"]}
        return {"content": text, "stop": True, **counts}
    return {"content": text, "stop": False} if text else None


def main() -> None:
    """Carry out the plan on stdin."""
    plan = json.load(sys.stdin)
    streams = [Exchange(port, body) for port, body in plan["runners"]]
    one, other = (Exchange(*item) if (item := plan.get(name)) else None for name in ("deserted", "extra"))
    gc.disable()
    client = Client()
    if plan["kind"] == "together":
        ended = together(client, streams)
    elif plan["kind"] == "intrusion":
        assert other is not None
        ended = intrusion(client, streams, other, plan["after"])
    elif plan["kind"] == "metronome":
        ended = metronome(client, streams[0], streams[1:], plan["after"], plan["seconds"])
    else:
        assert other is not None
        ended = desertion(client, streams, one, other, plan["after"], plan["seconds"])
    json.dump([report(exchange) for exchange in ended], sys.stdout)


if __name__ == "__main__":
    main()
