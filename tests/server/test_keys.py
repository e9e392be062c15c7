"""API keys: which requests need one, in which form, and a key file that changes."""

import pytest
from llamaserver.api import keys
from llamaserver.api.keys import KeyStore

CLOSED = [
    ("GET", "/props"),
    ("GET", "/slots"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/model"),
    ("GET", "/lora-adapters"),
    ("GET", "/health?include_slots"),
    ("GET", "/health?include_slots=1"),
    ("GET", "/v1/health?fail_on_no_slot&include_slots"),
    ("POST", "/completion"),
    ("POST", "/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/embedding"),
    ("POST", "/embeddings"),
    ("POST", "/infill"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/apply-template"),
    ("POST", "/slots/0?action=save"),
    ("POST", "/lora-adapters"),
]
OPEN = [("GET", "/"), ("GET", "/index.js"), ("GET", "/completion.js"), ("GET", "/health"), ("GET", "/v1/health")]


@pytest.fixture(autouse=True)
def look_always(monkeypatch):
    """Read the key file again without waiting."""
    monkeypatch.setattr(keys, "_CHECK_EVERY", 0.0)


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys"


def replace(file, text):
    """Put new content in place as secrets are mounted: by rename."""
    fresh = file.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(file)


@pytest.mark.parametrize(("method", "path"), CLOSED, ids=[f"{method} {path}" for method, path in CLOSED])
async def test_needs_a_key(ports, method, path):
    server = await ports(api_keys=("right",), metrics=True)
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = await server.client.request(method, path, headers=headers)
        assert answer.status == 401
        error = (await answer.json())["error"]
        assert (error["type"], error["code"]) == ("authentication_error", 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    answer = await server.client.request(method, path, headers={"Authorization": "Bearer right"})
    assert answer.status != 401


@pytest.mark.parametrize(("method", "path"), OPEN, ids=[f"{method} {path}" for method, path in OPEN])
async def test_needs_no_key(ports, method, path):
    server = await ports(api_keys=("right",))
    answer = await server.client.request(method, path)
    assert answer.status == (503 if "health" in path else 200)  # 503: nothing is loaded


async def test_every_route_but_the_open_ones_needs_a_key(ports):
    server = await ports(api_keys=("right",), metrics=True, slot_save_path="/")
    asked = set()
    for route in server.client.app.router.routes():
        path = route.resource.canonical.replace("{id_slot}", "0").replace("{id}", "model")
        if "{" in path or path in ("/health", "/v1/health"):
            continue
        asked.add(path)
        answer = await server.client.request(route.method, path)
        assert answer.status == 401, path
    assert {path.partition("?")[0] for _, path in CLOSED} - {"/health", "/v1/health"} <= asked


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ({"Authorization": "Bearer right"}, True),
        ({"Authorization": "bearer right"}, True),
        ({"Authorization": "Bearer  right "}, True),
        ({"X-Api-Key": "right"}, True),
        ({"Authorization": "Bearer ключ"}, True),
        ({"Authorization": "right"}, False),
        ({"Authorization": "Basic right"}, False),
        ({"Authorization": "Bearer"}, False),
        ({"Authorization": "Bearer "}, False),
        ({"Authorization": "Bearer righ"}, False),
        ({"Authorization": "Bearer right2"}, False),
        ({"Authorization": "Bearer wrong", "X-Api-Key": "right"}, True),  # a proxy put its own in front
        ({"Authorization": "Bearer right", "X-Api-Key": "wrong"}, True),
        ({"Authorization": "Basic d3Jvbmc=", "X-Api-Key": "right"}, True),
        ({"Authorization": "Bearer wrong", "authorization": "Bearer right"}, True),
        ({"X-Api-Key": "wrong", "x-api-key": "right"}, True),
        ({"Authorization": "Bearer wrong", "authorization": "Bearer worse", "X-Api-Key": "wrong"}, False),
        ({"Authorization": "Basic right", "X-Api-Key": ""}, False),
        ({"X-Api-Key": ""}, False),
    ],
    ids=str,
)
async def test_forms_of_a_key(ports, headers, accepted):
    server = await ports(api_keys=("other", "right", "ключ"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    answer = await server.raw(f"GET /props HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
    assert (b" 401 " not in answer.split(b"\r\n")[0]) == accepted


async def test_without_keys_everything_is_open(ports):
    server = await ports()
    for method, path in CLOSED:
        assert (await server.client.request(method, path)).status != 401


async def test_preflight_requests_need_no_key(ports):
    server = await ports(api_keys=("right",))
    assert (await server.client.options("/completion")).status == 200


async def test_keys_of_line_and_file_are_both_valid(ports, key_file):
    key_file.write_text("one\n\n  two  \n# three\r\nfour\r\n")
    server = await ports(api_keys=("zero",), api_key_file=str(key_file))
    for key, valid in {"zero": 1, "one": 1, "two": 1, "four": 1, "three": 0, "# three": 0}.items():
        answer = await server.client.get("/props", headers={"X-Api-Key": key})
        assert (answer.status != 401) == bool(valid), key


def test_a_rotated_file_is_read_again(key_file):
    key_file.write_text("old\n")
    store = KeyStore((), str(key_file))
    assert store.accepts("old")
    replace(key_file, "new\n")
    assert store.accepts("new")
    assert not store.accepts("old")


def test_the_file_is_looked_at_once_a_second_only(key_file, monkeypatch):
    monkeypatch.setattr(keys, "_CHECK_EVERY", 3600.0)
    key_file.write_text("old\n")
    store = KeyStore((), str(key_file))
    replace(key_file, "new\n")
    assert store.accepts("old")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_file_lets_nobody_in(key_file, text):
    key_file.write_text(text)
    store = KeyStore((), str(key_file))
    assert store.required
    assert not store.accepts("")
    assert not store.accepts("anything")


def test_a_file_that_vanishes_leaves_its_keys_valid(key_file, caplog):
    key_file.write_text("old\n")
    store = KeyStore((), str(key_file))
    key_file.unlink()
    assert store.accepts("old")
    assert "cannot read API keys" in caplog.text
    replace(key_file, "new\n")
    assert not store.accepts("old")


def test_bytes_that_are_no_text_are_keys_too(key_file):
    key_file.write_bytes(b"\xff\xfe\nplain\n")
    store = KeyStore((), str(key_file))
    assert store.accepts("plain")
    assert store.accepts(b"\xff\xfe".decode("utf-8", "surrogateescape"))


# ---- a folder, as a Secret is mounted: names are links to the files of a version that is swapped whole


@pytest.fixture
def secret(tmp_path):
    """Mount a version of a Secret with these files; gives the folder."""
    folder = tmp_path / "secret"
    folder.mkdir()

    def mount(version, **files):
        hidden = folder / f"..{version}"
        hidden.mkdir()
        for name, text in files.items():
            (hidden / name).write_text(text)
        (folder / "..fresh").symlink_to(hidden.name)
        (folder / "..fresh").replace(folder / "..data")
        for link in [path for path in folder.iterdir() if not path.name.startswith(".")]:
            if link.name not in files:
                link.unlink()
        for name in files:
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        return folder

    return mount


async def test_every_file_of_a_folder_holds_keys(ports, secret):
    folder = secret("1", alice="one\ntwo\n", bob="three", **{".hidden": "four\n"})
    (folder / "nested").mkdir()
    (folder / "nested" / "file").write_text("five\n")
    server = await ports(api_key_file=str(folder))
    for key, valid in {"one": 1, "two": 1, "three": 1, "four": 0, "five": 0}.items():
        answer = await server.client.get("/props", headers={"X-Api-Key": key})
        assert (answer.status != 401) == bool(valid), key


def test_a_new_version_of_the_secret_counts_at_once(secret):
    store = KeyStore((), str(secret("1", alice="old\n", bob="bobs\n")))
    assert store.accepts("old")
    secret("2", alice="new\n", carol="carols\n")
    assert store.accepts("new")
    assert store.accepts("carols")
    assert not store.accepts("old")
    assert not store.accepts("bobs")


def test_an_empty_folder_lets_nobody_in(secret):
    store = KeyStore((), str(secret("1")))
    assert store.required
    assert not store.accepts("")


def test_empty_keys_on_the_line_ask_for_none():
    assert not KeyStore(("",), "").required
