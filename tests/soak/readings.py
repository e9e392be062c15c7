"""What a process holds: memory, threads and files, from /proc, and what its metrics say."""

import re
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Reading:
    """One look. Memory is in bytes: `anonymous` is the part that is no file."""

    resident: int
    anonymous: int
    running: Mapping[str, int]  # how many threads have this name; those of a pool share one
    open: Mapping[str, int]  # what the file descriptors refer to, and how many do
    processing: float
    deferred: float
    connections: float

    @property
    def files(self) -> int:
        """Open file descriptors."""
        return sum(self.open.values())

    @property
    def threads(self) -> int:
        """Threads of the process."""
        return sum(self.running.values())

    @property
    def idle(self) -> bool:
        """Whether nothing is connected, runs or waits."""
        return not (self.processing or self.deferred or self.connections)


def read(pid: int, management: str) -> Reading:
    """Look at a server."""
    files = Counter(_targets(Path(f"/proc/{pid}/fd")))  # before the question for metrics opens a connection
    status = Path(f"/proc/{pid}/status").read_text()
    metrics = scrape(management)
    return Reading(
        resident=_kibibytes(status, "VmRSS"),
        anonymous=_kibibytes(status, "RssAnon"),
        running=Counter(_names(Path(f"/proc/{pid}/task"))),
        open=files,
        processing=metrics["llamacpp:requests_processing"],
        deferred=metrics["llamacpp:requests_deferred"],
        connections=metrics["llamaserver:connections"],
    )


def _targets(folder: Path) -> Iterator[str]:
    for link in folder.iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield re.sub(r"\d{2,}", "N", str(link.readlink()))


def _names(folder: Path) -> Iterator[str]:
    for task in folder.iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            yield re.sub(r"_\d+$", "", (task / "comm").read_text().strip())


def scrape(management: str) -> dict[str, float]:
    """All metrics of the management port, by name and labels."""
    with urllib.request.urlopen(f"{management}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def _field(status: str, name: str) -> str:
    found = re.search(rf"^{name}:\s*(\d+)", status, re.MULTILINE)
    assert found, name
    return found[1]


def _kibibytes(status: str, name: str) -> int:
    return int(_field(status, name)) * 1024
