"""The bill of materials of an image: valid CycloneDX 1.6 that names what the image has."""

import io
import json
import re
import tarfile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.support import image_archive
from tools import images, locked, patches, sbom, sdist, web_libraries

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)
BASE = "python@sha256:" + "ab" * 32
PACKAGES = """PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
VERSION_CODENAME=bookworm
Package: adduser
Status: install ok installed
Architecture: all
Version: 3.134

Package: libgomp1
Status: install ok installed
Architecture: amd64
Version: 12.2.0-14+deb12u1
Description: of several lines
 Version: 9

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The commit without the source of llama-cpp-python, which is not fetched for this."""
    monkeypatch.setattr(sdist, "fetch", lambda: tmp_path)
    monkeypatch.setattr(sbom, "_vendored_commit", lambda archive: "0c1e57098")


def made(image, packages=PACKAGES, accelerator="cpu"):
    text = sbom.document(image, accelerator, BASE, packages)
    assert VALIDATOR.validate_str(text) is None
    return json.loads(text)


def by_purl(document):
    return {part["purl"]: part for part in document["components"] if "purl" in part}


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("packages", [PACKAGES, ""], ids=["with packages", "without"])
@pytest.mark.parametrize("accelerator", images.ACCELERATORS)
@pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.name)
def test_it_is_valid(image, accelerator, packages):
    document = made(image, packages, accelerator)
    assert document["specVersion"] == "1.6"
    about = document["metadata"]["component"]
    assert f"{about['name']}:{about['version']}" == image.tag(accelerator)


def test_an_invalid_one_is_seen():
    text = json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "x"}]})
    assert VALIDATOR.validate_str(text) is not None


@pytest.mark.usefixtures("source")
def test_python_packages_have_version_and_hashes():
    parts, pins = by_purl(made(images.SERVER)), locked.needed_by({"llamaserver"}, locked.read())
    assert len(pins) > 15
    for pin in pins.values():
        (reference,) = parts[f"pkg:pypi/{pin.name}@{pin.version}"]["externalReferences"]
        assert {entry["content"] for entry in reference["hashes"]} == pin.hashes
        assert {entry["alg"] for entry in reference["hashes"]} == {"SHA-256"}


@pytest.mark.usefixtures("source")
def test_llama_cpp_has_its_commit_and_every_patch():
    document = made(images.SERVER)
    library = by_purl(document)["pkg:github/ggml-org/llama.cpp@0c1e57098"]
    diffs = [patch["diff"]["text"]["content"] for patch in library["pedigree"]["patches"]]
    assert len(diffs) == len(patches.PATCHES)
    assert {re.match(r"--- a/(\S+)", diff)[1] for diff in diffs} == {patch.file for patch in patches.PATCHES}
    depends = {entry["ref"]: entry.get("dependsOn", []) for entry in document["dependencies"]}
    (binding,) = [ref for ref in depends if ref.startswith("pkg:pypi/llama-cpp-python@")]
    assert library["bom-ref"] in depends[binding]


@pytest.mark.usefixtures("source")
def test_the_libraries_of_the_page_have_version_licence_and_hash():
    parts = by_purl(made(images.SERVER))
    for library in web_libraries.libraries():
        part = parts[f"pkg:npm/{library.name}@{library.version}"]
        assert part["licenses"][0]["expression"] == library.license
        (digest,) = part["hashes"]
        assert (digest["alg"], len(digest["content"])) == ("SHA-512", 128)


@pytest.mark.usefixtures("source")
def test_the_operator_has_no_engine():
    document = made(images.OPERATOR)
    assert not [purl for purl in by_purl(document) if purl.startswith("pkg:npm/")]
    assert not [purl for purl in by_purl(document) if "llama.cpp" in purl or "llama-cpp" in purl]
    assert not [purl for purl in by_purl(document) if "pysocks" in purl], "Dockerfile.operator leaves it out"


@pytest.mark.usefixtures("source")
def test_packages_of_the_base():
    document = made(images.SERVER)
    assert {purl for purl in by_purl(document) if purl.startswith("pkg:deb/")} == {
        "pkg:deb/debian/adduser@3.134?arch=all&distro=bookworm",
        "pkg:deb/debian/libgomp1@12.2.0-14%2Bdeb12u1?arch=amd64&distro=bookworm",
    }
    (base,) = [part for part in document["components"] if part["bom-ref"] == "base"]
    assert (base["name"], base["version"]) == (BASE, "sha256:" + "ab" * 32)


@pytest.mark.usefixtures("source")
def test_every_part_is_reached_from_the_image():
    document = made(images.SERVER)
    depends = {entry["ref"]: entry.get("dependsOn", []) for entry in document["dependencies"]}
    reached, todo = set(), ["image"]
    while todo:
        if (ref := todo.pop()) not in reached:
            reached.add(ref)
            todo += depends[ref]
    assert reached == {"image"} | {part["bom-ref"] for part in document["components"]}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.name)
def test_it_lists_what_the_image_has(image, image_files):
    """The file beside the archive, compared with the archive."""
    archive = images.prepare(image)
    text = archive.with_suffix(".cdx.json").read_text()
    assert VALIDATOR.validate_str(text) is None
    parts = by_purl(json.loads(text))
    files = image_files(archive)
    installed = {
        re.sub(r"[-_.]+", "-", found[1]).lower() + "@" + found[2]
        for name in files
        if f"opt/{image.name}/" in name and (found := re.search(r"/([^/]+)-([^/-]+)\.dist-info/METADATA$", name))
    }
    assert {purl.removeprefix("pkg:pypi/") for purl in parts if purl.startswith("pkg:pypi/")} == installed
    status = files["var/lib/dpkg/status"]
    names = set(re.findall(r"^Package: (\S+)$", status, re.MULTILINE))
    assert {part["name"] for purl, part in parts.items() if purl.startswith("pkg:deb/")} == names
    assert {"libc6", "base-files"} <= names


@pytest.fixture
def image_files():
    """Reads an archive: its names, with the text of dpkg's list."""

    def read(path):
        found = {}
        for layer, entry in image_archive.entries(path):
            name = entry.name.removeprefix("./")
            wanted = name == "var/lib/dpkg/status"
            found[name] = layer.extractfile(entry).read().decode() if wanted else ""
        return found

    return read


def test_the_commit_comes_from_the_changelog(tmp_path):
    version = sdist.pin().version
    text = f"## [Unreleased]\n\n## [{version}]\n\n- ggml-org/llama.cpp@0c1e57098\n\n## [0.1]\n\n- llama.cpp@bad\n"
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("top/CHANGELOG.md")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    assert sbom._vendored_commit(tmp_path / "a.tar.gz") == "0c1e57098"
