"""An image built by the real engine, pushed to a real registry (Debian's docker-registry) on this machine."""

import json
import shutil
import socket
import subprocess
import tarfile
import urllib.error
import urllib.request

import pytest

from tests.support.polling import until
from tools import container, images

pytestmark = pytest.mark.slow

MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def registry(tmp_path):
    program = shutil.which("docker-registry")
    assert program, "docker-registry is not here: make programs"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.json").write_text(json.dumps(config))
    with subprocess.Popen([program, "serve", str(tmp_path / "registry.json")], stdout=subprocess.DEVNULL) as process:
        try:
            until(lambda: _answers(f"http://{address}/v2/"), "the registry answers")
            yield address
        finally:
            process.terminate()


@pytest.fixture
def small_image(tmp_path):
    """An image without a base, in the engine's store while the test runs."""
    engine = container.engine()
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "file").write_text("content")
    dockerfile = tmp_path / "context" / "Dockerfile"
    dockerfile.write_text('FROM scratch\nCOPY file /file\nUSER 10001:10001\nENTRYPOINT ["/file"]\n')
    name = f"llamaserver-test-{tmp_path.name.replace('_', '-')}:1"
    engine.build(dockerfile, name, {}, tmp_path / "context")
    yield engine, name
    subprocess.run([engine.program, "rmi", "--force", name, f"localhost/{name}"], check=False, capture_output=True)


def _read(url):
    return urllib.request.urlopen(url, timeout=5).read()


def _answers(url):
    try:
        return bool(_read(url))
    except OSError:  # urllib's too
        return False


def test_what_is_pushed_is_what_the_registry_serves(registry, small_image):
    engine, name = small_image
    assert engine.has(name)
    assert not engine.has("llamaserver-test-absent:1")
    engine.push(name, f"{registry}/team/small:1")
    asked = urllib.request.Request(f"http://{registry}/v2/team/small/manifests/1", headers={"Accept": MANIFESTS})
    manifest = json.load(urllib.request.urlopen(asked, timeout=5))
    config = json.loads(_read(f"http://{registry}/v2/team/small/blobs/{manifest['config']['digest']}"))
    assert config["config"]["User"] == "10001:10001"
    assert config["config"]["Entrypoint"] == ["/file"]
    assert len(manifest["layers"]) == 1


def test_an_archive_bears_the_images_name(small_image, tmp_path):
    engine, name = small_image
    engine.save(name, tmp_path / "small.tar")
    with tarfile.open(tmp_path / "small.tar") as archive:
        (described,) = json.load(archive.extractfile("manifest.json"))
    assert described["RepoTags"] == [f"localhost/{name}"]


def test_make_push_names_what_it_pushed(registry, monkeypatch, small_image):
    """`make push` without the minutes of a build: both tags are of one small image."""
    _, name = small_image
    monkeypatch.setattr(images, "build", lambda accelerator, base: [name])
    (pushed,) = images.push(f"{registry}/team/", "cpu")
    assert pushed == f"{registry}/team/{name}"
    served = json.loads(_read(f"http://{registry}/v2/_catalog"))["repositories"]
    assert served == [f"team/{name.rpartition(':')[0]}"]
