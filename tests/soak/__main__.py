"""Serve mixed traffic for an hour, and check that nothing is left of it: `make soak`.

SOAK_ARGS="--minutes 10" makes it shorter. The server has the default model, four slots, four API keys, a KV store in
memory and on disk, and a folder for slots. After the warm-up and at the end, all clients leave. Then nothing may run or
be connected. Between these two moments, files and threads must not become more, and memory by 5 % at most. Pools of
threads may grow to their size. Each answer is a success, a 4xx, or an error that the documentation names.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from tests.soak.readings import Reading, read, scrape
from tests.soak.traffic import Client, Tally
from tests.support.paths import model_path
from tests.support.server.process import ServerProcess, free_port

MOST_GROWTH = 0.05  # of resident memory
WARM_UP = 0.2  # of the time
ROOT = Path(__file__).parents[2]
KEYS = ("one", "two", "three", "four")
# Pools start a thread when all of theirs are busy, and keep it: so many threads of a name are no leak.
POOLS = {"http": 4, "http-large": 2, "http-images": 1, "http-store": 1, "asyncio": 2 * (4 + (os.cpu_count() or 1))}
SETTLE = 120.0  # seconds in which a server without clients has to become idle


def server_options(folder: Path, management: int) -> list[str]:
    """Of a server with every part that can leak."""
    keys = folder / "keys"
    keys.write_text("".join(f"key-{name} name={name} role={'admin' if name == 'one' else 'user'}\n" for name in KEYS))
    (folder / "slots").mkdir()
    return [
        "-m", str(model_path()), "-c", "8192", "-np", "4", "-cb", "--log-disable",
        "--management-port", str(management), "--management-host", "127.0.0.1",
        "--api-key-file", str(keys), "--slot-save-path", str(folder / "slots"), "--cache-ram", "64",
        "--kv-store", str(folder / "store"), "--kv-store-max-bytes", str(256 << 20), "--max-queue", "16",
    ]  # fmt: skip


async def load(url: str, seconds: float, clients: int, tally: Tally, seed: int) -> None:
    """Let the clients act for so long, then leave."""
    stop = asyncio.Event()
    limits = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=limits) as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            key = f"key-{KEYS[number % len(KEYS)]}"
            client = Client(url, key, tally, random.Random(seed + number), session)
            group.create_task(client.run(stop))
        await asyncio.sleep(seconds)
        stop.set()


async def settled(pid: int, management: str) -> Reading:
    """The first reading of an idle server that two seconds later holds no fewer files, or the last one."""
    end = time.monotonic() + SETTLE
    before = await asyncio.to_thread(read, pid, management)
    while time.monotonic() < end:
        await asyncio.sleep(2)
        now = await asyncio.to_thread(read, pid, management)
        if now.idle and before.idle and now.files >= before.files and now.threads >= before.threads:
            return now
        before = now
    return before


def problems(first: Reading, last: Reading, tally: Tally, log: str) -> Iterator[str]:
    """What must not be."""
    if not last.idle:
        yield f"{last.processing:g} slots, {last.deferred:g} requests, {last.connections:g} connections are left"
    if last.files > first.files:
        more = {name: count for name, count in last.open.items() if count > first.open.get(name, 0)}
        yield f"{last.files - first.files} files are left: of these there are more now: {more}"
    for name, count in last.running.items():
        if count > max(first.running.get(name, 0), POOLS.get(name, 0)):
            yield f"{count - first.running.get(name, 0)} threads {name} are left"
    if last.resident > first.resident * (1 + MOST_GROWTH):
        yield f"memory grew by {last.resident / first.resident - 1:.1%}"
    for text, count in Counter(tally.wrong).most_common(20):
        yield f"{text} ({count} times)"
    if "Traceback" in log:
        yield "the log has a traceback:\n" + log[log.index("Traceback") - 500 :][:3000]


def table(first: Reading, last: Reading, tally: Tally, metrics: dict[str, float]) -> Iterator[str]:
    """The result, as the documentation shows it."""
    yield "| | after the warm-up | at the end |"
    yield "|---|---|---|"
    yield f"| busy slots | {first.processing:g} | {last.processing:g} |"
    yield f"| waiting requests | {first.deferred:g} | {last.deferred:g} |"
    yield f"| connections | {first.connections:g} | {last.connections:g} |"
    yield f"| files | {first.files} | {last.files} |"
    yield f"| threads | {first.threads} | {last.threads} |"
    yield f"| resident memory, MiB | {first.resident / 2**20:.1f} | {last.resident / 2**20:.1f} |"
    yield f"| of which anonymous | {first.anonymous / 2**20:.1f} | {last.anonymous / 2**20:.1f} |"
    yield ""
    answers = Counter[int]()
    for (_, status), count in tally.statuses.items():
        answers[status] += count
    left = sum(count for act, count in tally.acts.items() if act.startswith("leaves"))
    yield f"acts: {tally.acts.total()}, of which with a disconnect: {left}"
    yield "answers: " + ", ".join(f"{count} x {status}" for status, count in sorted(answers.items()))
    names = ("requests_total", "requests_cancelled_total", "preemptions_total")
    yield ", ".join(f"{name}: {metrics[f'llamaserver:{name}']:g}" for name in names)


async def soak(minutes: float, clients: int, seed: int) -> list[str]:
    """Run it. Returns the problems."""
    tally, management = Tally(), free_port()
    url = f"http://127.0.0.1:{management}"
    command = (sys.executable, "-m", "tests.soak.named_server")
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        server = ServerProcess(*server_options(folder, management), command=command, cwd=ROOT)
        with server:
            print(f"warming up for {minutes * WARM_UP:g} minutes, then {minutes * (1 - WARM_UP):g} minutes", flush=True)
            await load(server.url, minutes * WARM_UP * 60, clients, tally, seed)
            first = await settled(server.pid, url)
            print(first, flush=True)
            await load(server.url, minutes * (1 - WARM_UP) * 60, clients, tally, seed + clients)
            last = await settled(server.pid, url)
            print(*table(first, last, tally, scrape(url)), sep="\n")
            return list(problems(first, last, tally, server.log))


def main() -> int:
    """Parse, run, tell."""
    parser = argparse.ArgumentParser(
        prog="make soak", description="Serve mixed traffic, and look for what is left of it."
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, the warm-up included (60)")
    parser.add_argument("--clients", type=int, default=8, help="clients at the same time (8)")
    parser.add_argument("--seed", type=int, default=1, help="of the random acts (1)")
    args = parser.parse_args()
    found = asyncio.run(soak(args.minutes, args.clients, args.seed))
    print("\nall checks passed" if not found else "\n" + "\n".join(f"FAILED: {problem}" for problem in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
