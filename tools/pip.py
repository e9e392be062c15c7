"""One way to call pip: packages by hash, no questions, output to stderr."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def works(python: Path) -> bool:
    """Whether this Python has pip."""
    asked = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
    return asked.returncode == 0


def pip(*arguments: str, python: str | Path = sys.executable) -> None:
    """Run one pip command. Exits when it fails."""
    if failed := attempt(*arguments, python=python):
        sys.exit(f"pip {arguments[0]} failed with status {failed}")


def attempt(*arguments: str, python: str | Path = sys.executable) -> int:
    """Run one pip command. Returns its exit status."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode


@contextmanager
def requirements(text: str) -> Iterator[tuple[str, ...]]:
    """Options by which pip installs exactly the packages of a requirements text, and checks their hashes."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(text)
        file.flush()
        yield "--require-hashes", "--no-deps", "--requirement", file.name
