"""The operator depends on what it imports, and on nothing else."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import llamaserver_operator

CODE = Path(llamaserver_operator.__file__).parent
PROJECT = CODE.parent / "pyproject.toml"


def imported() -> set[str]:
    """Top-level names of the packages that the code imports, without the standard library and the operator itself."""
    found: set[str] = set()
    for file in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {CODE.name}


def test_every_dependency_is_imported_and_every_import_is_a_dependency() -> None:
    declared = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=!~\[ ]", line)[0].lower() for line in declared}
    distributions = packages_distributions()
    assert {distributions[name][0].lower().replace("_", "-") for name in imported()} == names
