"""Files that cannot be served: the server says why and ends, or stays and answers /health with 500."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.support.models import Models
from tests.support.polling import until
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model

Options = Callable[[Models], list[Path | str]]


def missing(models: Models) -> Path:
    return models.llama().with_name("missing.gguf")


def model(file: Callable[[Models], Path]) -> Options:
    return lambda models: ["-m", file(models)]


def beside(option: str, file: Callable[[Models], Path]) -> Options:
    return lambda models: ["-m", models.llama(), option, file(models)]


CASES: dict[str, tuple[Options, str]] = {  # options, and what the log has to say
    "model truncated": (model(lambda m: m.truncated(m.llama())), "not within the file bounds"),
    "model headless": (model(lambda m: m.headless(m.llama())), "failed to read"),
    "model garbage": (model(Models.garbage), "magic"),
    "model empty": (model(Models.empty), "empty.gguf"),
    "model missing": (model(missing), "No such file"),
    "model a folder": (model(lambda m: m.llama().parent), "is a folder"),
    "model a projector": (model(Models.projector), "CLIP"),
    "model an adapter": (model(Models.lora), "lora-7.gguf"),
    "model with encoder and decoder": (model(Models.t5), "encoder and decoder"),
    "lora truncated": (beside("--lora", lambda m: m.truncated(m.lora())), "not within the file bounds"),
    "lora garbage": (beside("--lora", Models.garbage), "magic"),
    "lora empty": (beside("--lora", Models.empty), "empty.gguf"),
    "lora missing": (beside("--lora", missing), "No such file"),
    "lora of another architecture": (beside("--lora", Models.lora_other_arch), "mismatch"),
    "lora of another size": (beside("--lora", Models.lora_other_shape), "wrong base model"),
    "lora a model": (beside("--lora", Models.llama), "adapter"),
    "mmproj truncated": (beside("--mmproj", lambda m: m.truncated(m.projector())), "projector"),
    "mmproj garbage": (beside("--mmproj", Models.garbage), "magic"),
    "mmproj empty": (beside("--mmproj", Models.empty), "projector"),
    "mmproj missing": (beside("--mmproj", missing), "No such file"),
    "mmproj of another size": (beside("--mmproj", Models.projector_other_width), "mismatch"),
    "mmproj a model": (beside("--mmproj", Models.llama), "projector"),
    "self-extend without shifts": (lambda m: ["-m", m.qwen2vl(), "-gan", "4", "-gaw", "64"], "--grp-attn-n"),
}


@pytest.mark.parametrize("case", CASES)
def test_ends_with_a_reason(case: str, models: Models) -> None:
    options, reason = CASES[case]
    with ServerProcess(*map(str, options(models)), "--log-format", "text", wait=False) as server:
        process = server.process
        assert process is not None
        until(lambda: process.poll() is not None, "the server ends")
        assert process.returncode == 1, server.log[-2000:]
        errors = [line for line in server.log.splitlines() if "ERROR" in line and "llamaserver" in line]
        assert any(reason in line for line in errors), server.log[-3000:]
        assert "Traceback" not in server.log


@pytest.mark.parametrize("case", ["model truncated", "lora of another size", "mmproj of another size"])
def test_stays_and_says_so(case: str, models: Models) -> None:
    options, reason = CASES[case]
    arguments = [*map(str, options(models)), "--stay-on-load-error"]
    with ServerProcess(*arguments, wait=False) as server:
        client = Client(server.url)
        until(lambda: _status(client) == 500, "/health says 500")
        body = client.get("/health", status=500)
        assert body["status"] == "error"
        assert reason in body["error"]["message"]
        client.error("/completion", {"prompt": "a"}, status=503)
        assert server.process is not None
        assert server.process.poll() is None


def _status(client: Client) -> int:
    try:
        return client.http.get("/health").status_code
    except httpx2.ConnectError:  # not listening yet
        return 0
