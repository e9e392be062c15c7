"""The documentation site: its generated pages are current, and links work in the repository and on the site."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import http_api, site

ROOT = Path(__file__).parents[2]


def test_the_page_of_the_http_api_is_current() -> None:
    made = http_api.page(yaml.safe_load(http_api.SOURCE.read_text()))
    assert (ROOT / "docs/reference/http-api.md").read_text() == made, "run: make generate"


@pytest.mark.parametrize(
    ("page", "link", "wanted"),
    [
        ("how-to/gpu.md", "[a](sizing.md#memory)", "[a](sizing.md#memory)"),
        ("index.md", "[a](../ARCHITECTURE.md)", "[a](explanation/architecture.md)"),
        ("explanation/architecture.md", "[a](docs/explanation/kv-cache.md#blocks)", "[a](kv-cache.md#blocks)"),
        ("reference/chart.md", "[a](values.yaml)", "[a](https://x/charts/llamaserver-operator/values.yaml)"),
        ("explanation/performance.md", "[a](../../tests/gpu/README.md)", "[a](https://x/tests/gpu/README.md)"),
        ("index.md", "[a](https://example.com/b)", "[a](https://example.com/b)"),
        ("index.md", "[a](missing.md)", "[a](missing.md)"),
    ],
)
def test_links(page: str, link: str, wanted: str) -> None:
    assert site.rewritten(link, page, "https://x") == wanted


def test_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"[a-z_]+(?:/[a-z_]+)*\.py\b", text))
    places = (ROOT / "server" / "llamaserver", ROOT / "operator" / "llamaserver_operator", ROOT)
    assert len(named) > 40
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_the_architecture_shows_every_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for top in ("server/llamaserver", "operator/llamaserver_operator"):
        packages = {path.parent.name for path in (ROOT / top).glob("*/__init__.py")}
        assert {name for name in packages if f"    {name}/ " not in text} == set()


@pytest.mark.parametrize(
    ("planted", "status"),
    [("[a](concepts.md#glossary)", 0), ("[a](nowhere.md)", 1), ("[a](../nowhere.md)", 1), ("[a](concepts.md#no)", 1)],
)
def test_a_broken_link_fails_the_build(tmp_path: Path, planted: str, status: int) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write(planted)
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT}/mkdocs.yml\nhooks: [{ROOT}/tools/site.py]\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


def test_make_check_includes_it() -> None:
    done = subprocess.run(["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mkdocs build --strict" in done.stdout
    assert "--quiet" not in done.stdout.partition("mkdocs")[2].partition("\n")[0]  # mkdocs counts no warnings then
