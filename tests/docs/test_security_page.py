"""docs/security.md: the tests that it names exist, and what it says of the code is so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", PAGE)))
ADVISORIES = PAGE.partition("## Published advisories")[2]


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_exists(named):
    file, _, test = named.partition("::")
    assert (ROOT / file).is_file()
    if test:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_class_of_advisories_has_a_test():
    rows = [line for line in ADVISORIES.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 25
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        assert re.search(r"CVE-20\d\d-\d{4,}|pull request", cells[1]), row
        assert cells[3].startswith("`tests/"), row


def test_nothing_is_unpickled():
    """Nor is text of others run as code."""
    found = []
    for package in ("server/llamaserver", "operator/llamaserver_operator"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                if isinstance(node, ast.ImportFrom):
                    names.append(node.module or "")
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    names.append(node.func.id)
                bad = {"pickle", "marshal", "shelve", "dill", "torch", "zmq", "eval", "exec"} & set(names)
                found += [f"{path.name}: {name}" for name in bad]
    assert found == []
