"""What the document's server says about endpoints that are off, and without a key."""

from collections.abc import Iterator

import pytest

from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def bare() -> Iterator[Client]:
    """A server with a key, and nothing that has to be switched on."""
    with ServerProcess("-m", str(model_path()), "--api-key", "sesame", "--slots-endpoint-disable") as process:
        yield Client(process.url, "sesame")


def test_metrics(bare: Client) -> None:
    answer = bare.http.get("/metrics")
    message = "This server does not support metrics endpoint."
    assert answer.json() == {"error": {"code": 501, "message": message, "type": "not_supported_error"}}
    assert answer.status_code == 501


def test_slots(bare: Client) -> None:
    error = bare.get("/slots", 501)["error"]
    assert (error["code"], error["type"]) == (501, "not_supported_error")
    assert "slots" not in bare.get("/health", include_slots="")


def test_slot_actions(bare: Client) -> None:
    for action in ("save", "restore", "erase"):
        assert bare.post(f"/slots/0?action={action}", {"filename": "x"}, 501)["error"]["type"] == "not_supported_error"


def test_api_key(bare: Client) -> None:
    for key in ("", "wrong"):
        answer = Client(bare.url, key).http.post("/completion", json={"prompt": "x"})
        error = {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}
        assert (answer.status_code, answer.json()) == (401, {"error": error})
    assert bare.complete("x", n_predict=1)["tokens_predicted"] == 1
