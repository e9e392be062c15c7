"""Make .venv from requirements.lock: `python3 -m tools.install [folder]`, run by any Python 3.11 or later.

Every package is checked by its hash. llama-cpp-python has no wheel, so it is compiled once, into the cache. Our own
packages, server and operator, are linked in place. When nothing has changed, nothing is done.
"""

import subprocess
import sys
from pathlib import Path

from . import locked, sdist, wheel
from .cache import exclusive, say, sha256_of
from .pip import attempt, pip, requirements, works

ROOT = Path(__file__).parent.parent
LEAST_PYTHON = (3, 11)
OWN_PACKAGES = ("server", "operator")


def install(venv: Path) -> None:
    """Make `venv` fit the lock. Only changed parts are installed."""
    with exclusive(venv):
        stamp = venv / ".installed"
        wanted = _wanted()
        done = set(stamp.read_text().splitlines()) if stamp.exists() else set()
        if done == set(wanted.values()):
            return
        python = venv / "bin" / "python"
        if not python.exists():
            create(venv)
        if wanted["packages"] not in done:
            _install_packages(python)
        if wanted["llama"] not in done:
            _install_llama(python)
        for package in OWN_PACKAGES:
            if wanted[package] not in done:
                _link(python, package)
        stamp.write_text("".join(f"{line}\n" for line in wanted.values()))
        say(f"{venv} is ready")


def _wanted() -> dict[str, str]:
    return {
        "packages": f"packages {sha256_of(locked.LOCK)}",
        "llama": f"llama {wheel.folder().name}",
    } | {name: f"{name} {ROOT} {sha256_of(ROOT / name / 'pyproject.toml')}" for name in OWN_PACKAGES}


def create(venv: Path) -> None:
    """Make an environment without packages."""
    say(f"creating {venv} with Python {sys.version.split()[0]}")
    make = [sys.executable, "-m", "venv"]
    if subprocess.run([*make, str(venv)], check=False, capture_output=True).returncode != 0:
        # Debian without python3-venv has no ensurepip; its pip can fill a bare environment as well.
        subprocess.run([*make, "--clear", "--without-pip", str(venv)], check=True)


def _install_packages(python: Path) -> None:
    say("installing the locked packages")
    fill(python, locked.text_of(locked.read(), without={sdist.PACKAGE}))


def fill(python: Path, wanted: str) -> None:
    """Install a requirements text into an environment. Install pip first when it is missing."""
    pins = locked.read()
    if not works(python):
        with requirements(pins["pip"].text) as exactly:
            failed = attempt("--python", str(python), "install", "--quiet", *exactly)
        if failed:
            sys.exit("this Python lacks venv and pip; on Debian or Ubuntu: sudo apt-get install python3-venv")
    with requirements(wanted) as exactly:
        pip("install", "--quiet", *exactly, python=python)


def _install_llama(python: Path) -> None:
    build = [str(python), "-m", "tools.wheel"]
    found = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode != 0:
        sys.exit(found.returncode)
    say("installing llama-cpp-python")
    local = ("--quiet", "--no-index", "--no-deps", "--force-reinstall")
    pip("install", *local, found.stdout.strip(), python=python)


def _link(python: Path, package: str) -> None:
    say(f"installing the {package} package in place")
    local = ("-qq", "--no-index", "--no-deps", "--no-build-isolation")
    pip("install", *local, "--editable", str(ROOT / package), python=python)


if __name__ == "__main__":
    if sys.version_info < LEAST_PYTHON:
        sys.exit(f"Python 3.11 or later is needed, this is {sys.version.split()[0]}")
    install(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".venv").absolute())
