"""The set-up steps behind the Makefile: the lock, the cache, failing builds."""

import importlib.metadata
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import build, cache, locked, model, patches, system_packages


def installed_closure(name):
    """What the installed metadata says that a package needs, itself left out."""
    found, waiting = set(), [name]
    while waiting:
        for text in importlib.metadata.requires(waiting.pop()) or ():
            wanted = Requirement(text)
            needed = canonicalize_name(wanted.name)
            if (wanted.marker is None or wanted.marker.evaluate({"extra": ""})) and needed not in found:
                found.add(needed)
                waiting.append(needed)
    return found


def test_every_pin_has_hashes_and_the_lock_no_addresses():
    pins = locked.read()
    assert "llama-cpp-python" in pins
    assert [name for name, pin in pins.items() if not pin.hashes] == []
    assert "://" not in locked.LOCK.read_text()
    assert "--index" not in locked.LOCK.read_text()


@pytest.mark.parametrize(("package", "extras"), [("llamaserver", set()), ("llamaserver-operator", {"pysocks"})])
def test_the_images_part_of_the_lock_is_what_the_package_needs(package, extras):
    part = locked.needed_by({package}, locked.read())
    assert set(part) - extras == installed_closure(package)


def test_installed_versions_are_the_locked_ones():
    pins = locked.read()
    part = locked.needed_by({"llamaserver", "llamaserver-operator"}, pins)
    assert {name: importlib.metadata.version(name) for name in part} == {
        name: pin.version for name, pin in part.items()
    }


def test_a_package_can_be_left_out():
    part = locked.needed_by({"llamaserver"}, locked.read())
    text = locked.text_of(part, without={"llama-cpp-python"})
    assert "\naiohttp==" in text
    assert "llama-cpp-python==" not in text


def test_a_failed_step_leaves_nothing_in_the_cache(tmp_path):
    place = tmp_path / "made"
    with pytest.raises(OSError, match="half way"), cache.replacing(place) as scratch:
        (scratch / "part").touch()
        raise OSError("half way")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_step_replaces_what_was_there(tmp_path):
    place = tmp_path / "made"
    for content in ("old", "new"):
        with cache.replacing(place) as scratch:
            (scratch / content).touch()
    assert [path.name for path in place.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [place]


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMASERVER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / "llamaserver"
    monkeypatch.setenv("LLAMASERVER_CACHE", str(tmp_path / "other"))
    assert cache.cache_dir() == tmp_path / "other"


def test_a_damaged_model_is_not_used(tmp_path):
    file = tmp_path / model.NAME
    file.write_bytes(b"GGUF and then something else")
    assert not model._sound(file)


def test_missing_programs_are_named_with_their_packages(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="sudo apt-get install -y chromium nodejs"):
        system_packages.ensure({"chromium": "chromium", "node": "nodejs"})


def test_a_failed_build_shows_the_end_of_its_output(tmp_path):
    script = "print('[1/2] one'); print('error: no such thing'); raise SystemExit(3)"
    log = tmp_path / "build.log"
    with pytest.raises(SystemExit, match=r"error: no such thing\n\nbuilding: failed with status 3"):
        build.run_build([sys.executable, "-c", script], "building", log)
    assert "error: no such thing" in log.read_text()


def test_build_keys_differ_by_flags_and_by_platform(monkeypatch):
    before = build.build_key("-DX=1")
    assert build.build_key("-DX=1") == before
    assert build.build_key("-DX=2") != before
    monkeypatch.setattr(build.platform, "machine", lambda: "another machine")
    assert build.build_key("-DX=1") != before


def test_patches_are_applied_once_and_a_changed_source_stops_the_build(tmp_path):
    texts = {}
    for patch in patches.PATCHES:
        texts.setdefault(patch.file, []).append(patch)
    for name, those in texts.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(patch.before for patch in those))
    patches.apply(tmp_path)
    for name, those in texts.items():
        assert (tmp_path / name).read_text() == "\n".join(patch.after for patch in those)
    changed = patches.PATCHES[0].file
    (tmp_path / changed).write_text("int main(void) { return 0; }")
    with pytest.raises(SystemExit, match=f"does not fit {re.escape(changed)}"):
        patches.apply(tmp_path)
