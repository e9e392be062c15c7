"""Generated files are current, and a change of their source is noticed."""

import shutil
from pathlib import Path

import pytest

from tests.support.operator.schema import LEAVES, text
from tools import generate
from tools.generate import CHART, CRD, ROOT, VERSIONED

NAMES = {name for name, _ in VERSIONED}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sources and of what is made from them; without the pages that commands print."""
    monkeypatch.setattr(generate, "PAGES", [])
    for name in ("VERSION", CRD, *(name for name, _ in generate.generated(ROOT))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_no_file_is_stale() -> None:
    assert [name for name, _ in generate.stale()] == [], "make generate"


def test_a_new_version_is_written_to_all_files(tree: Path) -> None:
    (tree / "VERSION").write_text("7.8.9\n")
    found = dict(generate.stale(tree))
    assert set(found) == NAMES
    assert all("7.8.9" in made for made in found.values())


@pytest.mark.parametrize(("old", "new"), [("Number of pods.", "Pods."), ("maxItems: 8", "maxItems: 9")])
def test_a_change_of_the_crd_makes_its_copy_and_its_page_stale(tree: Path, old: str, new: str) -> None:
    crd = tree / CRD
    crd.write_text(crd.read_text().replace(old, new))
    assert [name for name, _ in generate.stale(tree)] == [
        f"{CHART}/files/crd-llamaservers.yaml",
        "docs/reference/crd.md",
    ]


def test_the_page_has_every_field() -> None:
    page = (ROOT / "docs/reference/crd.md").read_text()
    missing = [path for path in LEAVES if f"`spec.{text(path)}`" not in page]
    assert missing == []
    assert "`status.model.sha256`" in page


def test_a_version_with_a_hyphen_is_written_once(tree: Path) -> None:
    (tree / "VERSION").write_text("7.8.9-rc.1\n")
    for _ in range(2):
        for name, made in generate.stale(tree):
            (tree / name).write_text(made)
    assert generate.stale(tree) == []
    assert "llamaserver:7.8.9-rc.1-cuda\n" in (tree / CHART / "Chart.yaml").read_text()
