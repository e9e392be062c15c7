"""The description of the API is true: it has every route, and nothing that it allows breaks the server."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llamaserver.api import openapi
from llamaserver.api.app import build_app, build_context
from llamaserver.config import Config
from llamaserver.engine.loop import Engine
from llamaserver.llama.templates import LlamaTemplates

from tests.support.engine.options import engine_settings
from tests.support.server.client import Client

EXAMPLES = 40  # an operation
TEXT = Path(openapi.__file__).with_name("openapi.yaml").read_text()
DOCUMENT = yaml.safe_load(TEXT)
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
FIELDS = sorted(
    {name for schema in DOCUMENT["components"]["schemas"].values() for name in schema.get("properties", {})}
)
NEEDED = {"prompt", "messages", "content", "input", "tokens"}


def no_backend(progress: Any) -> Any:
    raise AssertionError("nothing is loaded here")


def test_every_route_is_described() -> None:
    app = build_app(build_context(Config(), Engine(no_backend, engine_settings(slot_ctx=8)), LlamaTemplates()))
    routes = {
        (route.resource.canonical, route.method.lower())
        for route in app.router.routes()
        if route.resource and route.method in ("GET", "POST", "DELETE")
    }
    assert routes == set(OPERATIONS)


def test_no_schema_is_unused() -> None:
    names = set(DOCUMENT["components"]["schemas"]) - {"Generation", "OpenAi"}  # those are merged into others
    assert [name for name in names if f"#/components/schemas/{name}" not in TEXT] == []


@pytest.mark.model
def test_the_server_offers_it(client: Client) -> None:
    assert client.get("/openapi.json") == DOCUMENT


def shorten(body: Any) -> None:
    """Long answers would find nothing more."""
    if isinstance(body, dict):
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            body.pop(name, None)
        if not isinstance(body.get("n_predict"), str) and body.get("n_predict") not in (0, 1, 3):
            body["n_predict"] = 2


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_nothing_breaks_the_server(client: Client, path: str, method: str) -> None:
    cases = SCHEMA[path][method].as_strategy() | SCHEMA[path][method].as_strategy(
        generation_mode=schemathesis.GenerationMode.NEGATIVE
    )

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases, st.sets(st.sampled_from(FIELDS), max_size=5))
    def fuzz(case: Any, kept: set[str]) -> None:
        if isinstance(case.body, dict):  # few at a time: one bad field hides the others
            case.body = {name: value for name, value in case.body.items() if name in kept | NEEDED}
        shorten(case.body)
        answer = case.call(base_url=client.url, timeout=60)
        assert answer.status_code != 500, answer.text
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error.get("code", answer.status_code) in (
                answer.status_code,
                "model_not_found",
                "previous_response_not_found",
            )
            assert error["message"]

    fuzz()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("path", sorted({path for path, method in OPERATIONS if method == "post"}))
def test_any_json_in_any_field(client: Client, path: str) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
    def fuzz(fields: dict[str, Any]) -> None:
        body: dict[str, Any] = {"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}], **fields}
        shorten(body)
        answer = client.http.post(path.replace("{id_slot}", "0") + "?action=erase", json=body)
        assert answer.status_code != 500, answer.text

    fuzz()
