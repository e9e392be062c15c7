"""A real server with the options around the engine: TLS, keys, management port, logs, limits, static files."""

import contextlib
import json
import re
import socket
import ssl
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.paths import model_path
from tests.support.polling import until
from tests.support.server import certificates
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess, free_port

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return {name: certificates.make(folder, name) for name in ("one", "two")}


def verified(url, pair, **options):
    """A client that trusts this certificate only."""
    return httpx2.Client(
        base_url=url, verify=ssl.create_default_context(cafile=pair[0]), timeout=60, trust_env=False, **options
    )


def shows(url, pair):
    """Whether the server's certificate is this one."""
    try:
        with verified(url, pair) as client:
            return client.get("/health").status_code == 200
    except httpx2.ConnectError:
        return False


def test_tls_and_keys_with_rotation_and_a_management_port_without_either(pairs, tmp_path):
    files = (tmp_path / "tls.crt", tmp_path / "tls.key")
    certificates.replace(files, pairs["one"])
    keys, port = tmp_path / "keys", free_port()
    keys.write_text("# of the team\nfrom-file\n")
    args = (
        "-m", str(model_path()), "-a", "mine", "--metrics", "--ssl-cert-file", str(files[0]), "--ssl-key-file",
        str(files[1]), "--api-key", "first", "--api-key", "second", "--api-key-file", str(keys),
        "--management-port", str(port), "--management-host", "127.0.0.1",
    )  # fmt: skip
    with ServerProcess(*args, wait=False) as server:
        url = server.url.replace("http:", "https:")
        until(lambda: shows(url, pairs["one"]), "the server is healthy", 120)
        assert not shows(url, pairs["two"])
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"{server.url}/health", timeout=10, trust_env=False)

        with verified(url, pairs["one"]) as client:

            def allowed(key):
                answer = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
                assert answer.status_code in (200, 401)
                return answer.status_code == 200

            assert client.get("/health?include_slots").status_code == 401
            assert client.get("/").status_code == 200
            assert [allowed(key) for key in ("first", "second", "from-file", "third")] == [True] * 3 + [False]
            models = client.get("/v1/models", headers={"X-Api-Key": "first"}).json()
            assert [model["id"] for model in models["data"]] == ["mine"]
            answer = client.post(
                "/completion", json={"prompt": "Hi", "n_predict": 2}, headers={"Authorization": "Bearer second"}
            )
            assert answer.json()["model"] == "mine"

            keys.write_text("rotated\n")
            until(lambda: allowed("rotated"), "the new key is valid")
            assert not allowed("from-file")
            assert allowed("first")

        certificates.replace(files, pairs["two"])
        until(lambda: shows(url, pairs["two"]), "the new certificate is shown", pause=0.2)
        assert not shows(url, pairs["one"])

        manage = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        assert manage.get("/livez").text == "ok\n"
        assert manage.get("/readyz").text == "ok\n"
        assert "llamacpp:tokens_predicted_total 2" in manage.get("/metrics").text
        status = manage.get("/status").json()
        assert status["ready"] is True
        assert status["model"]["name"] == "mine"
        assert status["accelerator"]["layers_total"] == 31
        assert status["slots"] == {"total": 1, "processing": 0}
        assert manage.get("/props").status_code == 404
        assert not [key for key in ("first", "second", "from-file", "rotated") if f'"{key}"' in server.log]


def test_require_offload_keeps_a_server_without_gpu_unready():
    port = free_port()
    args = ("-m", str(model_path()), "--require-offload", "-ngl", "0", "--management-port", str(port))
    with ServerProcess(*args) as server:
        manage = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
        ready = manage.get("/readyz")
        assert ready.status_code == 503
        assert "--require-offload" in ready.text
        assert manage.get("/livez").status_code == 200
        status = manage.get("/status").json()
        assert (status["ready"], status["accelerator"]["layers_offloaded"]) == (False, 0)
        assert "--require-offload" in status["reason"]
        assert Client(server.url).complete("x")["content"]
        until(lambda: "--require-offload" in server.log, "the log says so")


# ---- logs


def test_json_logs_on_stdout_and_in_llama_log(tmp_path):
    with ServerProcess("-m", str(model_path()), "-v", "--jinja", "--fit", "on", cwd=tmp_path) as server:
        client = Client(server.url)
        client.complete("x")
        client.error("/completion", {"prompt": 7})
        until(lambda: "is ready" in server.log, "the log says so")
        lines = server.log.splitlines()
        records = [json.loads(line) for line in lines]
        in_file = (tmp_path / "llama.log").read_text().splitlines()
        assert sorted(in_file) == sorted(lines), "threads may write to the two in another order"
    assert all({"timestamp", "level", "logger", "msg"} <= set(record) for record in records)
    access = [record for record in records if record["logger"] == "llamaserver.access"]
    posts = [(r["method"], r["path"], r["status"]) for r in access if r["method"] == "POST"]
    assert posts == [("POST", "/completion", 200), ("POST", "/completion", 400)]
    assert any("is ready" in record["msg"] for record in records)
    assert any(record["logger"] == "llama.cpp" and record["level"] == "DEBUG" for record in records)
    told = {record["msg"].partition(":")[0]: record["level"] for record in records if record["msg"].startswith("--")}
    assert told == {"--jinja changes nothing": "INFO", "--fit is accepted but has no effect": "WARNING"}


def test_text_logs_to_stdout_only(tmp_path):
    args = ("-m", str(model_path()), "--log-format", "text", "--log-disable")
    with ServerProcess(*args, cwd=tmp_path) as server:
        Client(server.url).complete("x")
        until(lambda: "POST /completion 200" in server.log, "the access line")
        lines = server.log.splitlines()
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO |WARNING|ERROR) +[\w.]+: ")
    assert [line for line in lines if not form.match(line)] == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written():
    """No llama.log, one warning, and everything works. Nobody, not even root, creates files in /proc."""
    with ServerProcess("-m", str(model_path()), cwd=Path("/proc")) as server:
        assert Client(server.url).complete("x")["content"]
        warnings = [json.loads(line)["msg"] for line in server.log.splitlines() if '"WARNING"' in line]
    assert len([text for text in warnings if "cannot write the log file" in text]) == 1


# ---- files


def test_files_of_path_and_the_api_beside_them(tmp_path):
    (tmp_path / "index.html").write_text("<p>mine</p>")
    with ServerProcess("-m", str(model_path()), "--path", str(tmp_path)) as server:
        client = Client(server.url)
        assert client.http.get("/").text == "<p>mine</p>"
        assert "javascript" in client.http.get("/completion.js").headers["Content-Type"]
        assert client.complete("x")["content"]
        assert client.http.get("/..%2f..%2fetc/passwd").status_code == 404


@pytest.mark.parametrize("form", ["json", "nested", "text", "a list"])
def test_a_system_prompt_from_a_file(tmp_path, form):
    prompt = '["You are a pirate."]' if form == "a list" else "You are a pirate. " * 8
    value = {"prompt": prompt, "anti_prompt": "Sailor:", "assistant_name": "Pirate:"}
    text = {"json": json.dumps(value), "nested": json.dumps({"system_prompt": value})}.get(form, prompt)
    file = tmp_path / "system"
    file.write_text(text)
    with ServerProcess("-m", str(model_path()), "-spf", str(file)) as server:
        client = Client(server.url)
        props = client.get("/props")
        names = ("", "") if text == prompt else ("Pirate:", "Sailor:")
        assert (props["assistant_name"], props["user_name"]) == names
        own = len(client.post("/tokenize", content="Hello")["tokens"])
        system = len(client.post("/tokenize", content=prompt)["tokens"])
        assert client.complete("Hello")["tokens_evaluated"] == own + system


# ---- limits


def test_a_body_beyond_the_limit():
    with ServerProcess("-m", str(model_path()), "--max-body", "2048") as server:
        client = Client(server.url)
        error = client.error("/completion", {"prompt": "x" * 4000}, status=413)
        assert "--max-body" in error["message"]
        assert client.complete("x")["content"]


class SlowReader:
    """A streaming client that takes nothing: a small window, large events, no reads."""

    def __init__(self, port):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", port))
        fields = {"prompt": "Once", "n_predict": -1, "ignore_eos": True, "stream": True, "n_probs": 300, "id_slot": 0}
        body = json.dumps(fields).encode()
        head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.sock.sendall(head.encode() + body)

    def closed(self):
        """Read everything; whether the server cut the connection before the stream's end."""
        self.sock.settimeout(60)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := self.sock.recv(65536):
                data = (data + more)[-1000:]
        self.sock.close()
        return not data.endswith(b"0\r\n\r\n")


@pytest.mark.slow
def test_a_client_that_does_not_read_rests_and_nobody_else_notices():
    with ServerProcess("-m", str(model_path()), "-c", "2048", "-np", "2", "-cb", "--metrics") as server:
        client = Client(server.url)
        alone = client.complete("Count: 1, 2,", n_predict=16, ignore_eos=True, id_slot=1)["content"]
        slow = SlowReader(server.port)

        def rests():
            """Whether the stream stood still while another client got a whole answer."""
            before = client.slots()[0]["next_token"]["n_decoded"]
            assert client.complete("Count: 1, 2,", n_predict=16, ignore_eos=True, id_slot=1)["content"] == alone
            return before > 0 and client.slots()[0]["next_token"]["n_decoded"] == before

        until(rests, "the stream rests", 150)
        process = psutil.Process(server.pid)
        memory = process.memory_info().rss
        assert all(rests() for _ in range(3))
        assert process.memory_info().rss - memory < 20_000_000
        slow.sock.close()
        until(lambda: not any(slot["state"] for slot in client.slots()), "the slot is free")


@pytest.mark.parametrize("option", ["-to", "--timeout"])
def test_a_client_that_does_not_read_is_cut_off_after_the_timeout(option):
    with ServerProcess("-m", str(model_path()), "-c", "2048", option, "1") as server:
        client = Client(server.url)
        slow = SlowReader(server.port)
        until(lambda: any(slot["state"] for slot in client.slots()), "the stream runs")
        until(lambda: not any(slot["state"] for slot in client.slots()), "the slot is free", 120)
        assert slow.closed()


# ---- addresses


def test_a_unix_socket(tmp_path):
    path = tmp_path / "server.sock"
    with ServerProcess("-m", str(model_path()), host=str(path), wait=False) as server:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://x") as client:

            def healthy():
                with contextlib.suppress(httpx2.TransportError):
                    return client.get("/health").status_code == 200

            until(healthy, "the server is healthy", 60)
            assert client.post("/completion", json={"prompt": "x", "n_predict": 1}).status_code == 200
        assert server.stop() == 130


def dockerfile():
    """ENTRYPOINT and ENV of the image."""
    text = (Path(__file__).parents[2] / "Dockerfile.server").read_text()
    final = text[text.rindex("\nFROM ") :]
    entry = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", final, re.MULTILINE)[1])
    return entry, dict(re.findall(r"(\bLLAMA_ARG_\w+)=(\S+)", final))


def test_the_images_entrypoint_takes_the_documents_arguments(tmp_path):
    """`docker run IMAGE -m ... -c 512 --host 0.0.0.0 --port N`, the image's environment included."""
    (entry,), env = dockerfile()
    assert env == {
        "LLAMA_ARG_HOST": "0.0.0.0", "LLAMA_ARG_LOG_DISABLE": "true", "LLAMA_ARG_MANAGEMENT_PORT": "8081"
    }  # fmt: skip
    script = Path(sys.executable).parent / entry
    env["LLAMA_ARG_MANAGEMENT_PORT"] = str(free_port())
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.gguf").symlink_to(model_path())
    with ServerProcess(
        "-m", "models/model.gguf", "-c", "512", command=[str(script)], env=env, cwd=tmp_path, host="0.0.0.0"
    ) as server:
        assert Client(server.url).get("/props")["default_generation_settings"]["n_ctx"] == 512
        assert f"('0.0.0.0', {server.port})" in server.log
        ready = httpx2.get(f"http://127.0.0.1:{env['LLAMA_ARG_MANAGEMENT_PORT']}/readyz", timeout=60, trust_env=False)
        assert ready.status_code == 200
    assert not (tmp_path / "llama.log").exists()


def test_the_environment_alone_is_enough():
    """Host and port are given by the test; everything else comes from variables."""
    env = {"LLAMA_ARG_MODEL": str(model_path()), "LLAMA_ARG_CTX_SIZE": "768", "LLAMA_ARG_N_PARALLEL": "3"}
    with ServerProcess(env={**env, "LLAMA_ARG_ENDPOINT_SLOTS": "0", "LLAMA_API_KEY": "k"}) as server:
        props = Client(server.url, key="k").get("/props")
        assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (3, 256)
        assert Client(server.url, key="k").http.get("/slots").status_code == 501
        assert Client(server.url).http.get("/props").status_code == 401
