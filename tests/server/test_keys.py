"""API keys: which requests need one, in which form, and a key file that changes."""

import pytest
from llamaserver.api import failed_keys, keys
from llamaserver.api.key_file import Key, Limits
from llamaserver.api.keys import KeyStore
from llamaserver.errors import ConfigError

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
    ("POST", "/v1/rerank"),
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


def known(store, offered):
    return store.find(offered) is not None


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


async def test_every_route_but_the_open_ones_needs_a_key(ports, monkeypatch):
    monkeypatch.setattr(failed_keys, "_DELAY", 0.0)
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


@pytest.mark.parametrize(
    "head",
    [
        "POST /completion HTTP/1.1\r\nHost: x/health?",
        "POST /completion HTTP/1.1\r\nHost: x/health#",
        "POST /completion HTTP/1.1\r\nHost: x\r\nX-Forwarded-Prefix: /health",
        "POST /completion HTTP/1.1\r\nHost: x\r\nX-Original-URL: /health\r\nX-Rewrite-URL: /health",
        "POST /completion?/health HTTP/1.1\r\nHost: x",
        "POST /health/../completion HTTP/1.1\r\nHost: x",
        "POST http://x/completion HTTP/1.1\r\nHost: x/health",
        "POST //health/../completion HTTP/1.1\r\nHost: x",
    ],
)
async def test_no_header_opens_a_closed_path(ports, head):
    """vLLM took the path from a URL that it made from Host (CVE-2026-48746)."""
    server = await ports(api_keys=("right",))
    answer = await server.raw(f"{head}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert answer.split(b"\r\n")[0].split()[1] in (b"400", b"401", b"403", b"404")


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
    assert known(store, "old")
    replace(key_file, "new\n")
    assert known(store, "new")
    assert not known(store, "old")


def test_the_file_is_looked_at_once_a_second_only(key_file, monkeypatch):
    monkeypatch.setattr(keys, "_CHECK_EVERY", 3600.0)
    key_file.write_text("old\n")
    store = KeyStore((), str(key_file))
    replace(key_file, "new\n")
    assert known(store, "old")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "\ufeff# a comment after a mark\n"])
def test_a_file_without_keys_ends_the_start_and_later_lets_nobody_in(key_file, text):
    key_file.write_text(text)
    with pytest.raises(ConfigError, match="has no keys"):
        KeyStore((), str(key_file))
    key_file.write_text("old\n")
    store = KeyStore((), str(key_file))
    replace(key_file, text)
    assert store.required
    assert not known(store, "old")
    assert not known(store, "")
    assert not known(store, "anything")


def test_a_file_that_vanishes_leaves_its_keys_valid(key_file, caplog):
    key_file.write_text("old\n")
    store = KeyStore((), str(key_file))
    key_file.unlink()
    assert known(store, "old")
    assert "cannot read API keys" in caplog.text
    replace(key_file, "new\n")
    assert not known(store, "old")


def test_bytes_that_are_no_text_are_keys_too(key_file):
    key_file.write_bytes(b"\xff\xfe\nplain\n")
    store = KeyStore((), str(key_file))
    assert known(store, "plain")
    assert known(store, b"\xff\xfe".decode("utf-8", "surrogateescape"))


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
    assert known(store, "old")
    secret("2", alice="new\n", carol="carols\n")
    assert known(store, "new")
    assert known(store, "carols")
    assert not known(store, "old")
    assert not known(store, "bobs")


def test_an_empty_folder_lets_nobody_in(secret):
    store = KeyStore((), str(secret("1")))
    assert store.required
    assert not known(store, "")


# ---- names, roles and limits


@pytest.mark.parametrize(
    ("line", "roles"),
    [
        (("a",), "admin"),
        (("a", "b"), "user user"),
        (("a name=me", "b name=me"), "admin admin"),
        (("a role=user",), "user"),
        (("a name=alice",), "admin"),
        (("a role=admin", "b"), "admin user"),
        (("a", "a"), "admin"),
    ],
    ids=str,
)
def test_roles(key_file, line, roles):
    key_file.write_text("\n".join(line))
    store = KeyStore((), str(key_file))
    assert [store.find(secret).role for secret in "ab" if known(store, secret)] == roles.split()


def test_settings_of_a_key(key_file):
    key_file.write_text(
        "\ufeffone  name=alice requests=4\tqueued=0 tokens-per-minute=60000 domain=team\r\ntwo role=user"
    )
    store = KeyStore(("zero",), str(key_file))
    assert store.find("one") == Key("alice", "user", Limits(4, 0, 60000), "name:alice", "domain:team")
    zero, two = store.find("zero"), store.find("two")
    assert (zero.name, two.name, zero.limits) == ("#1", "#3", Limits())
    assert "two" not in two.identity


def test_a_key_without_a_name_keeps_its_identity_when_lines_move(key_file):
    key_file.write_text("one\ntwo\n")
    store = KeyStore((), str(key_file))
    before, first = store.find("two"), store.find("one")
    replace(key_file, "two\nthree\n")
    after = store.find("two")
    assert after.name != before.name
    assert (after.identity, after.domain) == (before.identity, before.domain)
    assert first.identity not in (after.identity, store.find("three").identity)


BAD = {
    "secret role=root": "line 1: role must be admin or user",
    "\nsecret roles=admin": "line 2: word 2 is no setting",
    "secret another word": "line 1: word 2 is no setting",
    "secret name=": "name must have 1 to 128",
    "secret name=a/b": "name must have 1 to 128",
    "secret name=a name=a": "name is set twice",
    "secret requests=0": "requests must be a number from 1",
    "secret requests=-1": "requests must be a number",
    "secret queued=many": "queued must be a number from 0",
    "secret tokens-per-minute=1e5": "tokens-per-minute must be a number",
    "secret name=a\nsecret2 name=a role=admin": "line 2: .*line 1 gives a other settings",
    "secret name=a\nsecret name=b": "line 2: this key is also in .*line 1, with other settings",
}


@pytest.mark.parametrize("text", BAD, ids=repr)
def test_a_bad_file_ends_the_start_and_is_not_taken_later(key_file, text, caplog):
    key_file.write_text(text)
    with pytest.raises(ConfigError, match=BAD[text]) as caught:
        KeyStore((), str(key_file))
    assert "secret" not in str(caught.value)
    key_file.write_text("old role=user\n")
    store = KeyStore((), str(key_file))
    replace(key_file, text)
    assert store.find("old").role == "user"
    assert known(store, "old")
    assert not known(store, "secret")
    assert caplog.text.count("the API keys stay as they were") == 1
    assert "secret" not in caplog.text


def test_the_entries_of_a_secret_are_names(secret):
    store = KeyStore((), str(secret("1", alice="one\ntwo\n", bob="three role=admin", c="four name=carol")))
    names = [store.find(key).name for key in ("one", "two", "three", "four")]
    assert names == ["alice", "alice", "bob", "carol"]
    assert store.find("three").role == "admin"
