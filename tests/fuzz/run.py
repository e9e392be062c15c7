"""Sends drawn requests from several clients at once to a real server, and measures what they cost it."""

import http.client
import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import orjson

from tests.fuzz.draw import GENERATING, RANKING, Drawn, draw
from tests.support.server.process import ServerProcess, free_port
from tests.support.vendored import vendored_templates

CLIENTS = 4
PATHS = {"generating": GENERATING, "ranking": RANKING}
_SHARED = ("-np", "4", "-cb", "--log-disable", "--embedding")
_OPTIONS = {"generating": ("-c", "1024", "--no-unlimited-answers"), "ranking": ("--reranking",)}
_TEMPLATE = "Qwen-Qwen3-0.6B"  # thoughts, and calls of functions in parallel
_TIMEOUT = 60  # seconds; an answer that takes longer has failed in any case
_LONGEST = 10  # seconds that an answer may take
_PROBE_EVERY = 0.1  # seconds
_REFUSALS = ("503 Retry-After", "501")  # the server is busy, or it was started without a feature


@dataclass(slots=True)
class Outcome:
    """What a run has measured. Times are in seconds, sizes in bytes, lags in milliseconds."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)  # (path, status class)
    times: list[tuple[float, int, str]] = field(default_factory=list)  # with number and path of the request
    wrong: list[str] = field(default_factory=list)  # requests with another outcome than allowed
    probes: list[float] = field(default_factory=list)  # of /livez
    rss_before: int = 0
    rss_most: int = 0
    rss_after: int = 0
    lags: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def grown(self) -> int:
        """Growth of the resident memory at its largest."""
        return self.rss_most - self.rss_before

    def lag(self, share: float) -> int:
        """The lag of the event loop that this share of all callbacks does not exceed."""
        total, seen = sum(self.lags.values()), 0
        for lag in sorted(self.lags):
            seen += self.lags[lag]
            if seen >= share * total:
                return lag
        return 0


@dataclass(frozen=True, slots=True)
class _Target:
    """The server under test, for the processes of the clients. `kind` is a key of PATHS."""

    kind: str
    port: int
    management: int
    pid: int


@dataclass(slots=True)
class _Seen:
    """What one client has seen."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    times: list[tuple[float, int, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def _client(target: _Target, numbers: Sequence[int], seed: int, end: float) -> _Seen:
    """Send the requests with these numbers, one after the other, until the time `end`."""
    seen = _Seen()
    for number in numbers:
        if time.monotonic() > end:
            break
        drawn = draw(Random(f"{seed}/{number}"), PATHS[target.kind])
        data = orjson.dumps(drawn.body)
        began = time.monotonic()
        status = _send(target, drawn, data)
        took = time.monotonic() - began
        seen.statuses[drawn.path, status[:4].strip()] += 1
        if drawn.leaves_after:
            continue
        seen.times.append((took, number, f"{drawn.path}: {status}"))
        if not (status[0] in "24" or status in _REFUSALS) or took > _LONGEST:
            seen.wrong.append(f"request {number} ({drawn.path}): {status} after {took:.1f} s")
    return seen


def _send(target: _Target, drawn: Drawn, data: bytes) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=_TIMEOUT)
    try:
        connection.connect()
        if drawn.leaves_after:
            connection.sock.settimeout(drawn.leaves_after)
        with suppress(BrokenPipeError, ConnectionResetError):  # a body that is refused before it is read
            connection.request("POST", drawn.path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        while answer.read(1 << 16):
            pass
        return f"{answer.status}{' Retry-After' if answer.getheader('Retry-After') else ''}"
    except (http.client.HTTPException, OSError) as error:
        return "left" if drawn.leaves_after else f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def _probe(target: _Target, ended: Event, results: "Queue[tuple[list[float], list[str], int]]") -> None:
    """Ask /livez again and again, and look at the memory, until the clients have ended."""
    times: list[float] = []
    wrong: list[str] = []
    most = 0
    while not ended.wait(_PROBE_EVERY):
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", target.management, timeout=_TIMEOUT)
        try:
            connection.request("GET", "/livez")
            if connection.getresponse().status != 200:
                wrong.append("/livez did not answer 200")
        except OSError as error:
            wrong.append(f"/livez: {error}")
        finally:
            connection.close()
        times.append(time.monotonic() - began)
        most = max(most, _memory(target.pid, "VmRSS"))
    results.put((times, wrong, most))


def _run(target: _Target, numbers: Sequence[int], seed: int, seconds: float, outcome: Outcome) -> None:
    """Let the clients run, each in a process of its own: they must not wait for each other."""
    processes = get_context("spawn")
    ended, results = processes.Event(), processes.Queue()
    prober = processes.Process(target=_probe, args=(target, ended, results))
    prober.start()
    began = time.monotonic()
    with ProcessPoolExecutor(CLIENTS, mp_context=processes) as clients:
        shares = [numbers[client::CLIENTS] for client in range(CLIENTS)]
        for seen in clients.map(partial(_client, target, seed=seed, end=began + seconds), shares):
            outcome.statuses += seen.statuses
            outcome.times += seen.times
            outcome.wrong += seen.wrong
    outcome.seconds = time.monotonic() - began
    ended.set()
    outcome.probes, wrong, outcome.rss_most = results.get()
    outcome.wrong += wrong
    prober.join()


def fuzz(
    kind: str, model: Path, numbers: Sequence[int], seed: int, *, seconds: float = math.inf, warm: int = 8
) -> Outcome:
    """Start a server, send the requests with these numbers for so many seconds, and measure.

    `kind` is a key of PATHS.
    """
    management = free_port()
    with TemporaryDirectory() as folder:
        lag, template = Path(folder, "lag.json"), Path(folder, "template.jinja")
        template.write_text(vendored_templates()[_TEMPLATE])
        with ServerProcess(
            "-m", str(model), *_SHARED, *_OPTIONS[kind], "--chat-template-file", str(template),
            "--management-host", "127.0.0.1", "--management-port", str(management),
            command=(sys.executable, "-m", "tests.fuzz.watched_server"),
            env={"LAG_FILE": str(lag)},
            cwd=Path(__file__).parents[2],
        ) as server:  # fmt: skip
            for number in range(warm if kind == "generating" else 0):
                _warm(server, number)
            outcome = Outcome(rss_before=_memory(server.pid, "VmRSS"))
            before = _lags(lag)
            _run(_Target(kind, server.port, management, server.pid), numbers, seed, seconds, outcome)
            assert server.process is not None
            if server.process.poll() is not None:
                outcome.wrong.append(f"the server ended with {server.process.returncode}: {server.log[-2000:]}")
            else:
                outcome.rss_most = max(outcome.rss_most, _memory(server.pid, "VmHWM"))
                outcome.rss_after = _memory(server.pid, "VmRSS")
            outcome.lags = _lags(lag) - before
    return outcome


def _lags(path: Path) -> Counter[int]:
    time.sleep(1.2)  # it is written each second
    return Counter({int(late): count for late, count in json.loads(path.read_text()).items()})


def _warm(server: ServerProcess, number: int) -> None:
    """What every server allocates once: the index of the vocabulary for grammars, the caches of pieces."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_TIMEOUT)
    fields = {"prompt": f"{number} ", "n_predict": 4, "grammar": 'root ::= [a-z ]* "x"', "n_probs": 5}
    connection.request("POST", "/completion", orjson.dumps(fields))
    connection.getresponse().read()
    connection.close()


def _memory(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def table(outcome: Outcome) -> str:
    """The measurements as a Markdown table."""
    times, probes = sorted(outcome.times), sorted(outcome.probes)
    paths = sorted({path for path, _ in outcome.statuses})
    kinds = sorted({kind for _, kind in outcome.statuses})
    lines = [f"| endpoint | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for path in paths:
        lines.append(f"| `{path}` | {' | '.join(str(outcome.statuses[path, kind]) for kind in kinds)} |")
    rows = (
        ("requests", f"{sum(outcome.statuses.values())} in {outcome.seconds:.0f} s, {CLIENTS} clients"),
        ("answers outside what is allowed", str(len(outcome.wrong))),
        ("longest answer", f"{times[-1][0]:.1f} s" if times else "-"),
        ("lag of the event loop, 99.9 %", f"{outcome.lag(0.999)} ms"),
        ("lag of the event loop, most", f"{max(outcome.lags, default=0)} ms"),
        ("slowest /livez", f"{1000 * probes[-1]:.0f} ms" if probes else "-"),
        ("memory at the start", f"{outcome.rss_before >> 20} MiB"),
        ("growth of memory at its largest", f"{outcome.grown >> 20} MiB"),
        ("growth of memory at the end", f"{(outcome.rss_after - outcome.rss_before) >> 20} MiB"),
    )
    lines += ["", "| measured | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    lines += ["", "The slowest answers:", *(f"{took:.1f} s: request {n}, {what}" for took, n, what in times[-5:])]
    return "\n".join(itertools.chain(lines, ["", *outcome.wrong[:20]]))
