"""What the built images hold, read from the archives that the local cluster loads: real builds, cached by content."""

import hashlib
import json
import platform
import tarfile
from dataclasses import dataclass

import pytest

from tools import images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

BUILD_TOOLS = {"gcc", "g++", "cc", "c++", "ld", "as", "make", "cmake", "ninja", "git"}


@dataclass
class Built:
    config: dict
    layers: list  # each: file name -> (kind, mode, digest of a regular file)

    @property
    def files(self):
        return {name: entry for layer in self.layers for name, entry in layer.items()}

    def names_below(self, folder):
        return {name for name in self.files if name.startswith(folder)}


def _layer(file):
    with tarfile.open(fileobj=file) as layer:
        return {
            entry.name.removeprefix("./"): (
                entry.type,
                entry.mode,
                hashlib.sha256(layer.extractfile(entry).read()).hexdigest() if entry.isreg() else "",
            )
            for entry in layer
        }


def _read(path):
    with tarfile.open(path) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))
        config = json.load(archive.extractfile(manifest["Config"]))
        return Built(config, [_layer(archive.extractfile(name)) for name in manifest["Layers"]])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    exported = images.export(tmp_path_factory.mktemp("images"))
    return {name.partition("/")[2].partition(":")[0]: _read(path) for name, path in exported.items()}


@pytest.fixture(params=images.IMAGES, ids=lambda image: image.name)
def one(request, built):
    return request.param, built[request.param.name]


def test_the_configuration_is_what_a_restricted_pod_needs(one):
    image, made = one
    config = made.config["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == [image.name]
    assert config["Labels"]["org.opencontainers.image.title"] == image.name
    assert config["Labels"]["org.opencontainers.image.version"] == image.version
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment["PATH"].startswith(f"/opt/{image.name}/bin:/usr/local/sbin:")
    assert environment["HOME"] == "/tmp"  # all that a read-only root leaves to write to
    assert not [name for name in environment if name.startswith("PIP_")]


def test_no_build_tools_and_no_leftovers(one):
    _, made = one
    programs = {name.rpartition("/")[2] for name in made.files if "/bin/" in f"/{name}" or "/sbin/" in f"/{name}"}
    assert programs & BUILD_TOOLS == set()
    assert not made.names_below("opt/build")
    assert not made.names_below("src/")
    packages = {name.split("/site-packages/")[1].split("/")[0] for name in made.files if "/site-packages/" in name}
    assert not packages & {"pip", "setuptools", "wheel", "cmake", "ninja", "scikit_build_core", "pytest"}
    assert [name for name in made.names_below("tmp/") if name != "tmp/"] == []


def test_nothing_that_runs_as_root_by_mode(one):
    image, made = one
    ours = made.names_below(f"opt/{image.name}/")
    assert ours
    for name in ours:
        kind, mode, _ = made.files[name]
        assert not mode & 0o6000, name
        if kind != tarfile.SYMTYPE:
            assert mode & 0o004, f"{name} cannot be read by others"


def test_the_builders_certificates_are_in_no_layer(one):
    _, made = one
    (bundle, *more) = [layer for layer in made.layers if "etc/ssl/certs/ca-certificates.crt" in layer]
    assert more == []
    assert bundle is made.layers[0], "the base's own"


def test_a_change_of_our_code_is_one_small_layer(one):
    image, made = one
    *below, top = made.layers
    module = image.name.replace("-", "_")
    code = {name for name in top if f"/site-packages/{module}/" in name}
    assert any(name.endswith(f"{module}/__init__.py") for name in code)
    assert any(name.endswith(".pyc") for name in code), "precompiled: the root is read-only"
    assert not [name for layer in below for name in layer if f"/site-packages/{module}/" in name]
    apart = {name.split("/site-packages/")[1].split("/")[0] for name in top if "/site-packages/" in name}
    assert apart <= {"", module, f"{module}-{image.version}.dist-info"}


def test_the_server_has_code_for_old_and_new_processors(built):
    modules = {name.rpartition("/")[2] for name in built["llamaserver"].files if "/libggml-cpu" in name}
    wanted = {"x86_64": {"x64", "haswell", "skylakex"}, "aarch64": {"armv8.0_1"}}[platform.machine()]
    assert {f"libggml-cpu-{variant}.so" for variant in wanted} <= modules


def test_the_operator_has_no_engine(built):
    packages = {
        name.split("/site-packages/")[1].split("/")[0]
        for name in built["llamaserver-operator"].files
        if "/site-packages/" in name
    }
    assert {"kopf", "kubernetes", "llamaserver_operator"} <= packages
    assert not packages & {"llama_cpp", "numpy", "PIL", "llamaserver"}
