"""The bill of materials (SBOM) of an image: `python -m tools.sbom server|operator ACCELERATOR BASE FILE <PACKAGES`.

It is JSON of CycloneDX 1.6. It lists our package, the Python packages of requirements.lock that the image installs,
the libraries of the chat page, llama.cpp with our patches, and the packages of the Debian or Ubuntu below, which BASE
names. The latter come from stdin: the image's /usr/lib/os-release and /var/lib/dpkg/status, one after the other.
Without them, the list has none.
"""

import argparse
import base64
import re
import sys
import tarfile
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

from cyclonedx.model import AttachedText, ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import (
    Component,
    ComponentType,
    Diff,
    Patch,
    PatchClassification,
    Pedigree,
)
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from . import bases, images, locked, patches, sdist, web_libraries

_LICENSE: LicenseExpression | DisjunctiveLicense = LicenseExpression("Apache-2.0")
_NOT_INSTALLED = {"pysocks"}  # Dockerfile.operator leaves it out
_COMMIT = re.compile(r"ggml-org/llama\.cpp@([0-9a-f]{7,40})")
_FIELD = re.compile(r"^(Package|Version|Architecture|Status): (.+)$", re.MULTILINE)
_INSTALLED = "install ok installed"


def document(image: images.Image, accelerator: str, base_name: str, packages: str) -> str:
    """The bill of an image as JSON. `packages` is what stdin has (see above)."""
    bom = Bom()
    root = Component(
        name=image.name,
        version=image.tag(accelerator).partition(":")[2],
        type=ComponentType.CONTAINER,
        bom_ref="image",
        licenses=[_LICENSE],
    )
    bom.metadata.component = root
    ours = _pypi(image.name.replace("_", "-"), image.version)
    ours.licenses.add(_LICENSE)
    pins = locked.needed_by({image.name}, locked.read())
    found = {name: _locked(pin) for name, pin in pins.items() if name not in _NOT_INSTALLED}
    below = list(_system(packages))
    page = [_npm(library) for library in web_libraries.libraries()] if image is images.SERVER else []
    base = Component(name=base_name, type=ComponentType.CONTAINER, bom_ref="base", version=bases.digest_of(base_name))
    for component in (ours, base, *found.values(), *page, *below):
        bom.components.add(component)
    for name, component in found.items():
        bom.register_dependency(component, [other for key, other in found.items() if name in pins[key].parents])
    bom.register_dependency(ours, [found[name] for name, pin in pins.items() if image.name in pin.parents] + page)
    bom.register_dependency(base, below)
    if engine := found.get(sdist.PACKAGE):
        library = _llama_cpp()
        bom.components.add(library)
        bom.register_dependency(engine, [library])
    bom.register_dependency(root, [ours, base])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _pypi(name: str, version: str) -> Component:
    purl = PackageURL("pypi", name=name, version=version)
    return Component(name=name, version=version, purl=purl, bom_ref=str(purl))


def _locked(pin: locked.Pin) -> Component:
    """A package of the lock. The hashes are those of all files that pip may take, so they belong to its page."""
    component = _pypi(pin.name, pin.version)
    page = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/project/{pin.name}/{pin.version}/#files"),
        comment="the files that requirements.lock accepts",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content) for content in sorted(pin.hashes)],
    )
    component.external_references.add(page)
    return component


def _npm(library: web_libraries.Library) -> Component:
    """A library of the chat page. The hash is that of the archive that npm takes."""
    purl = PackageURL("npm", name=library.name, version=library.version)
    name, _, digest = library.integrity.partition("-")
    assert name == "sha512"
    return Component(
        name=library.name,
        version=library.version,
        purl=purl,
        bom_ref=str(purl),
        licenses=[LicenseExpression(library.license)],
        hashes=[HashType(alg=HashAlgorithm.SHA_512, content=base64.b64decode(digest).hex())],
    )


def _llama_cpp() -> Component:
    """llama.cpp as llama-cpp-python's source has it, with our patches as diffs."""
    archive = sdist.fetch()
    commit = _vendored_commit(archive)
    purl = PackageURL("github", namespace="ggml-org", name="llama.cpp", version=commit)
    pedigree = Pedigree(
        patches=[
            Patch(type=PatchClassification.UNOFFICIAL, diff=Diff(text=AttachedText(content=_diff(patch))))
            for patch in patches.PATCHES
        ],
        notes="tools/patches.py says what each patch is for. Patches do not change results.",
    )
    return Component(
        name="llama.cpp",
        version=commit,
        purl=purl,
        bom_ref=str(purl),
        licenses=[DisjunctiveLicense(id="MIT")],
        pedigree=pedigree,
    )


def _vendored_commit(archive: Path) -> str:
    """The commit of llama.cpp, which the changelog of llama-cpp-python names."""
    with tarfile.open(archive) as source:
        (name,) = [item for item in source.getnames() if re.fullmatch(r"[^/]+/CHANGELOG\.md", item)]
        file = source.extractfile(name)
        text = file.read().decode() if file else ""
    section = text.partition(f"## [{sdist.pin().version}]")[2].partition("\n## ")[0]
    found = _COMMIT.search(section)
    return found[1] if found else sys.exit(f"{archive.name}: its changelog does not name the commit of llama.cpp")


def _diff(patch: patches.Patch) -> str:
    before, after = (text.splitlines(keepends=True) for text in (patch.before, patch.after))
    lines = unified_diff(before, after, f"a/{patch.file}", f"b/{patch.file}")
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _system(packages: str) -> Iterator[Component]:
    """The installed packages of Debian or Ubuntu."""
    release = dict(re.findall(r'^(ID|VERSION_CODENAME)="?([^"\n]+)"?$', packages, re.MULTILINE))
    system, codename = release.get("ID", "debian"), release.get("VERSION_CODENAME", "")
    for paragraph in packages.split("\n\n"):
        field = dict(_FIELD.findall(paragraph))
        if field.get("Status") != _INSTALLED:
            continue
        about = {"arch": field["Architecture"], "distro": codename}
        purl = PackageURL("deb", system, field["Package"], field["Version"], {k: v for k, v in about.items() if v})
        yield Component(name=field["Package"], version=field["Version"], purl=purl, bom_ref=str(purl))


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.sbom")
    parser.add_argument("image", choices=[image.package for image in images.IMAGES])
    parser.add_argument("accelerator", choices=images.ACCELERATORS)
    parser.add_argument("base")
    parser.add_argument("file", type=Path)
    chosen = parser.parse_args()
    (image,) = [image for image in images.IMAGES if image.package == chosen.image]
    packages = "" if sys.stdin.isatty() else sys.stdin.read()
    chosen.file.parent.mkdir(parents=True, exist_ok=True)
    chosen.file.write_text(document(image, chosen.accelerator, chosen.base, packages), encoding="utf-8")


if __name__ == "__main__":
    _main()
