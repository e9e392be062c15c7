"""`make check` fails when a module imports what its layer may not, also where only a type checker sees it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TYPED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and the rules, without the rest of the repository."""
    folder = tmp_path_factory.mktemp("layers")
    for package in ("server/llamaserver", "operator/llamaserver_operator"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    return folder


def layers(folder: Path) -> subprocess.CompletedProcess[str]:
    """`make layers`, which `make check` includes, over the copy."""
    env = os.environ | {"PYTHONPATH": f"{folder / 'server'}:{folder / 'operator'}"}
    command = ["make", "--old-file=install", f"VENV={sys.prefix}", "layers"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_tree_as_it_is_passes(copy: Path) -> None:
    done = layers(copy)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        ("grammar/matcher.py", "from ..engine import loop", "The server's packages"),
        ("grammar/matcher.py", TYPED.format("from ..engine import loop"), "The server's packages"),
        ("kvstore/store.py", "from ..scheduling import scheduler", "The server's packages"),
        ("api/native.py", "from . import openai", "The API's layers"),
        ("api/openai.py", "from .openai_embeddings import add_routes as others", "The API's layers"),
        ("api/chat.py", "from ..llama import templates", "Only lifecycle and the self-test know llama/"),
        ("sampling/chain.py", "import llama_cpp", "Only llama/ imports llama_cpp"),
        ("scheduling/placement.py", "import threading", "Scheduling is pure"),
        ("scheduling/novelty.py", '"""A module that no contract names."""', "Scheduling's layers"),
        ("novelty.py", '"""A module that no contract names."""', "The server's packages"),
    ],
)
def test_a_forbidden_import_fails(copy: Path, file: str, planted: str, contract: str) -> None:
    path = copy / "server" / "llamaserver" / file
    before = path.read_text() if path.exists() else None
    try:
        path.write_text(f"{before or ''}\n{planted}\n")
        done = layers(copy)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert done.returncode != 0
    assert contract in done.stdout + done.stderr


def test_make_check_includes_it() -> None:
    done = subprocess.run(["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "lint-imports" in done.stdout
