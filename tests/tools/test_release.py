"""What the release workflow takes from the tree: names of images, and the notes of this version."""

import pytest
from llamaserver import __version__

from tools import images, release


def test_the_changelog_has_this_version() -> None:
    text = (images.ROOT / "CHANGELOG.md").read_text()
    assert "### Added" in release.notes(__version__, text)


def test_notes_are_one_section() -> None:
    text = "# Changelog\n\n## [Unreleased]\n- a\n\n## [2.0.0] - 2027-01-01\n\n- b\n\n## [1.0.0]\n- c\n"
    assert release.notes("2.0.0", text) == "- b\n"
    with pytest.raises(SystemExit, match=r"no section \[3.0.0\]"):
        release.notes("3.0.0", text)


def test_an_image_is_described_for_a_workflow() -> None:
    lines = release.about("server", "cuda").splitlines()
    assert lines[:3] == ["name=llamaserver", f"tag={__version__}-cuda", "dockerfile=Dockerfile.server"]
    assert "CMAKE_ARGS=-DGGML_CUDA=ON" in lines
    assert lines[-2:] == [f"VERSION={__version__}", "END"]
