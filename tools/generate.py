"""Files made from other files: `python -m tools.generate` writes them, with --check it names those that are stale.

VERSION is the source of the version, wherever else it is written. `crds/llamaservers.yaml` is the source of the custom
resource: it holds what no Python type can (validation rules, list types, columns, descriptions), and `kubectl apply`
takes it as it is. `llamaserver_operator.spec` is the typed view of it; tests/operator/test_fields.py compares the two.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from . import crd_page

ROOT = Path(__file__).parent.parent
CRD = "crds/llamaservers.yaml"
CHART = "charts/llamaserver-operator"

# Files that a command of our own prints: (file, arguments of Python). A later command may read an earlier file.
PAGES: list[tuple[str, list[str]]] = [
    ("docs/reference/options.md", ["-m", "llamaserver.options"]),
    ("docs/reference/metrics.md", ["-m", "llamaserver.kvstore.discards", "docs/reference/metrics.md"]),
    ("server/llamaserver/api/openapi.yaml", ["-m", "llamaserver.api.openapi"]),
    ("docs/reference/http-api.md", ["-m", "tools.http_api"]),
    ("docs/reference/operator.md", ["-m", "tools.operator_page"]),
]

# Files that repeat the version: (file, pattern whose first group ends before it).
VERSIONED = [
    ("server/llamaserver/__init__.py", r'^(__version__ = ")[^"]+'),
    ("operator/llamaserver_operator/__init__.py", r'^(__version__ = ")[^"]+'),
    (f"{CHART}/Chart.yaml", r"^((?:version|appVersion): )\S+"),
    (f"{CHART}/Chart.yaml", r"^(\s+image: \S+:)\S+?(?=-cuda$|-vulkan$|$)"),
    ("Dockerfile.server", r"^(ARG VERSION=)\S+"),
    ("Dockerfile.operator", r"^(ARG VERSION=)\S+"),
]


def generated(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Each file that is made, and the text that it should have."""
    version = (root / "VERSION").read_text(encoding="utf-8").strip()
    texts: dict[str, str] = {}
    for name, pattern in VERSIONED:
        text = texts.get(name) or (root / name).read_text(encoding="utf-8")
        texts[name] = re.sub(pattern, rf"\g<1>{version}", text, flags=re.MULTILINE)
    yield from texts.items()
    crd = (root / CRD).read_text(encoding="utf-8")
    yield f"{CHART}/files/crd-llamaservers.yaml", crd
    yield "docs/reference/crd.md", crd_page.markdown(crd)
    for page, arguments in PAGES:
        made = subprocess.run([sys.executable, *arguments], cwd=root, stdout=subprocess.PIPE, text=True, check=True)
        yield page, made.stdout


def stale(root: Path = ROOT) -> list[tuple[str, str]]:
    """Of these, the files whose text is another one."""
    return [(name, text) for name, text in generated(root) if _read(root / name) != text]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.generate")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    check = parser.parse_args().check
    if check:
        found = [name for name, _ in stale()]
        for name in found:
            print(f"{name} is stale. `make generate` makes it")
        sys.exit(1 if found else 0)
    for name, text in generated():  # each is written before the next is made
        if _read(ROOT / name) != text:
            print(name)
            (ROOT / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _main()
