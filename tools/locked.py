"""Read requirements.lock: one package's pin, or the part of the lock that some roots need.

`python -m tools.locked llamaserver` prints what the server needs to run, with hashes. Images install this part.
`--without NAME` leaves one package out. The dependencies are in the "# via" comments of the lock.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).parent.parent / "requirements.lock"
_PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>\S+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^    #(?: via)?\s+(?P<parent>[A-Za-z0-9._-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Pin:
    """One locked package. `text` is its part of the lock, in the form of a requirements file."""

    name: str
    version: str
    hashes: frozenset[str]
    parents: frozenset[str]
    text: str


def read(lock: Path = LOCK) -> dict[str, Pin]:
    """Every pin of the lock by name. A package with one pin per Python version counts as one."""
    pins: dict[str, Pin] = {}
    for text in re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE):
        if found := _PIN.match(text):
            parents = frozenset(match["parent"] for match in _VIA.finditer(text)) - {"via"}
            pin = Pin(found["name"], found["version"], frozenset(_HASH.findall(text)), parents, text)
            pins[pin.name] = _merged(pins[pin.name], pin) if pin.name in pins else pin
    return pins


def _merged(one: Pin, other: Pin) -> Pin:
    hashes, parents = one.hashes | other.hashes, one.parents | other.parents
    return Pin(one.name, one.version, hashes, parents, one.text + other.text)


def needed_by(roots: set[str], pins: dict[str, Pin]) -> dict[str, Pin]:
    """The pins of `roots` and of all their dependencies."""
    wanted = {name: pins[name] for name in roots if name in pins}
    names = roots
    while found := {p.name: p for p in pins.values() if p.parents & names and p.name not in wanted}:
        wanted |= found
        names = set(found)
    return dict(sorted(wanted.items()))


def text_of(pins: dict[str, Pin], without: set[str]) -> str:
    """The pins as a requirements file."""
    return "".join(pin.text for pin in pins.values() if pin.name not in without)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.locked")
    parser.add_argument("root", nargs="+")
    parser.add_argument("--without", action="append", default=[])
    arguments = parser.parse_args()
    part = needed_by(set(arguments.root), read())
    if not part:
        sys.exit(f"nothing in {LOCK.name} is needed by {', '.join(arguments.root)}")
    sys.stdout.write(text_of(part, set(arguments.without)))


if __name__ == "__main__":
    _main()
