"""The digests of the base images: read, used by builds, and renewed from registries."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tools import bases, images

DIGEST = "sha256:" + "ab" * 32
TAGGED = re.compile(r"[^\s@]+:[^\s:@]*\d[^\s:@]*")


@pytest.fixture
def tokens():
    """What the registry answers when it is asked for a token."""
    return {"token": "t0ken"}


@pytest.fixture
def registry(tokens):
    """A registry that gives a token to everybody, as Docker Hub does, and has one image."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            if self.headers.get("Authorization") != "Bearer t0ken":
                self.send_response(401)
                realm = f"http://127.0.0.1:{self.server.server_port}/token"
                scope = "repository:library/python:pull"
                self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="reg",scope="{scope}"')
            elif self.path == "/v2/library/python/manifests/3.12":
                assert "oci.image.index" in self.headers["Accept"]
                self.send_response(200)
                self.send_header("Docker-Content-Digest", DIGEST)
            elif self.path == "/v2/library/silent/manifests/1":
                self.send_response(200)
            else:
                self.send_response(404)
            self.end_headers()

        def do_GET(self):
            assert self.path == "/token?service=reg&scope=repository%3Alibrary%2Fpython%3Apull"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(tokens).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_lock_has_exactly_the_bases_of_all_images():
    used = {images._usual_base()}
    used |= {value for given in images.ACCELERATORS.values() for key, value in given.items() if key.endswith("_BASE")}
    assert set(bases.read()) == used
    assert all(TAGGED.fullmatch(base) for base in used)


def test_a_digest_is_real_or_said_to_be_unknown():
    digests = bases.read().values()
    assert all(digest == bases.UNKNOWN or re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in digests)


@pytest.mark.parametrize("digest", ["sha256:short", "3.12", "sha256:" + "zz" * 32])
def test_anything_else_is_refused(tmp_path, digest):
    (tmp_path / "bases.lock").write_text(f"# a comment\npython:3.12 {digest}\n")
    with pytest.raises(SystemExit, match=r"bases\.lock: the digest of python:3\.12 must be"):
        bases.read(tmp_path / "bases.lock")


def test_a_base_is_named_by_its_digest_where_that_is_known():
    assert bases.pinned("nvidia/cuda:12-devel", {"nvidia/cuda:12-devel": DIGEST}) == f"nvidia/cuda@{DIGEST}"
    assert bases.pinned("r.example:5000/a/b:1", {"r.example:5000/a/b:1": DIGEST}) == f"r.example:5000/a/b@{DIGEST}"
    assert bases.pinned("python:3.12", {"python:3.12": bases.UNKNOWN}) == "python:3.12"
    assert bases.pinned("of-the-user:1", {}) == "of-the-user:1"


@pytest.mark.parametrize("accelerator", images.ACCELERATORS)
@pytest.mark.parametrize("image", images.IMAGES, ids=lambda image: image.name)
def test_builds_use_it(image, accelerator, monkeypatch):
    known = dict.fromkeys(bases.read(), DIGEST)
    monkeypatch.setattr(bases, "read", lambda: known)
    given = image.arguments(accelerator)
    assert given["BUILD_BASE"].endswith(f"@{DIGEST}")
    assert given["RUN_BASE"].endswith(f"@{DIGEST}")


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("python:3.12", ("registry-1.docker.io", "library/python", "3.12")),
        ("nvidia/cuda:12", ("registry-1.docker.io", "nvidia/cuda", "12")),
        ("ghcr.io/a/b:1", ("ghcr.io", "a/b", "1")),
        ("localhost/a:1", ("localhost", "a", "1")),
        ("127.0.0.1:5000/a/b:1", ("127.0.0.1:5000", "a/b", "1")),
    ],
)
def test_where_an_image_is(base, wanted):
    assert bases.parts(base) == wanted


def test_the_lock_is_renewed_by_asking(registry, tmp_path):
    lock = tmp_path / "bases.lock"
    lock.write_text(f"{registry}/library/python:3.12 unknown\n")
    assert bases.renew(lock) == []
    assert bases.read(lock) == {f"{registry}/library/python:3.12": DIGEST}
    assert lock.read_text().startswith("# The base images")


def test_what_cannot_be_asked_stays_and_is_told(registry, tmp_path):
    lock = tmp_path / "bases.lock"
    old = "sha256:" + "cd" * 32
    names = [f"{registry}/library/gone:1", f"{registry}/library/silent:1", "127.0.0.1:1/x:1"]
    lock.write_text(f"{names[0]} {old}\n{names[1]} unknown\n{names[2]} unknown\n{registry}/library/python:3.12 {old}\n")
    gone, silent, closed = bases.renew(lock)
    assert gone.startswith(f"{names[0]}: HTTP Error 404")
    assert silent.endswith("answered without a digest")
    assert "refused" in closed
    assert list(bases.read(lock).values()) == [old, bases.UNKNOWN, bases.UNKNOWN, DIGEST]


@pytest.mark.parametrize("tokens", [{"access_token": "t0ken"}])
def test_a_token_may_have_the_other_name(registry):
    assert bases.ask(f"{registry}/library/python:3.12") == DIGEST


@pytest.mark.parametrize("tokens", [{}, [], {"token": 1}])
def test_an_answer_without_a_token_is_told(registry, tmp_path):
    lock = tmp_path / "bases.lock"
    lock.write_text(f"{registry}/library/python:3.12 unknown\n")
    (problem,) = bases.renew(lock)
    assert problem.endswith("127.0.0.1 answered without a token")
