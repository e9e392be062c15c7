"""JSON schemas of requests: what is not enforced is told, and nothing that a client sends ends the server."""

import json
import time
from typing import Any

import pytest

from tests.support.server.client import Client

DECIMAL = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", "maxLength": 3}
SCHEMA = {"type": "object", "properties": {"a": DECIMAL}, "required": ["a"]}
MESSAGES = [{"role": "user", "content": "x"}]


def asked(schema: object, **more: object) -> dict[str, Any]:
    return {
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 8,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, **more}},
    }


@pytest.mark.parametrize("stream", [False, True])
def test_the_header_names_what_is_not_enforced(client: Client, stream: bool) -> None:
    name = 'llamaserver:schema_weakened_total{keyword="pattern"}'
    answer = client.http.post("/v1/chat/completions", json={**asked(SCHEMA), "stream": stream})
    assert answer.status_code == 200
    assert answer.headers["X-Schema-Weakened"] == "pattern"
    before = client.metric(name)
    client.http.post("/completion", json={"prompt": "x", "n_predict": 1, "json_schema": SCHEMA})
    assert client.metric(name) == before + 1
    exact = client.http.post("/v1/chat/completions", json=asked({"type": "boolean"}, strict=True))
    assert "X-Schema-Weakened" not in exact.headers
    assert json.loads(exact.json()["choices"][0]["message"]["content"]) in (True, False)


def test_strict_refuses_it(client: Client) -> None:
    error = client.error("/v1/chat/completions", asked(SCHEMA, strict=True))
    assert error["param"] == "response_format"
    assert "'pattern'" in error["message"]
    function = {"name": "f", "parameters": SCHEMA, "strict": True}
    tools = {"messages": MESSAGES, "tools": [{"type": "function", "function": function}]}
    error = client.error("/v1/chat/completions", tools)
    assert error["param"] == "tools"
    assert "'pattern'" in error["message"]


def test_errors_name_the_field_that_was_sent(client: Client) -> None:
    assert client.error("/v1/chat/completions", asked({"type": "wrong"}))["param"] == "response_format"
    assert client.error("/completion", {"prompt": "x", "json_schema": {"type": "wrong"}})["param"] == "json_schema"
    assert client.error("/v1/chat/completions", asked({"allOf": [False]}))["param"] == "response_format"


def references(count: int) -> dict[str, Any]:
    definitions = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{count}": {"type": "null"}}}


HOSTILE: dict[str, dict[str, Any]] = {
    "a chain of rules": {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(4000))},
    "a chain that ends": {
        "grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(1900)) + 'r1900 ::= "a"'
    },
    "a long chain that ends": {
        "grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(3000)) + 'r3000 ::= "a"'
    },
    "a chain of references": {"json_schema": references(1900)},
    "a longer chain of references": {"json_schema": references(2500)},
    "characters": {"grammar": 'root ::= "' + "abcdefgh" * 8000 + '"'},
    "different characters": {"grammar": 'root ::= "' + "".join(chr(0x4E00 + i) for i in range(20_000)) + '"'},
    "choices": {"grammar": "root ::= " + " | ".join(f'"{i}"' for i in range(6000))},
    "counts": {"grammar": 'root ::= (("a"{0,2000}){0,2000}){0,2000}'},
    "ambiguity": {"grammar": 'root ::= "a" root "b" | "a" root "c" | "a" root | ""'},
    "a class of many": {"grammar": "root ::= [" + "".join(chr(0x4E00 + 2 * i) for i in range(9000)) + "]"},
    "patterns": {"json_schema": {"pattern": "^(a?){9999}(a{9999}){9999}$"}},
    "many patterns": {"json_schema": {"properties": {f"p{i}": {"pattern": f"^{i}.*x.*y"} for i in range(1500)}}},
    "lengths": {"json_schema": {"type": "string", "minLength": 10**9, "maxLength": 10**12}},
    "items": {"json_schema": {"items": {"type": "null"}, "minItems": 10**9}},
    "an enumeration": {"json_schema": {"enum": [f"{i}" for i in range(11_000)]}},
    "alternatives of alternatives": {
        "json_schema": {"allOf": [{"anyOf": [{"minimum": i + j} for j in range(9)]} for i in range(9)]}
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_server_survives(client: Client, name: str) -> None:
    began = time.monotonic()
    answer = client.http.post("/completion", json={"prompt": "x", "n_predict": 3, **HOSTILE[name]})
    print(f"{name}: {answer.status_code} after {time.monotonic() - began:.2f} s")  # shown with -s
    assert answer.status_code in (200, 400), answer.text
    assert client.get("/health")["status"] == "ok"
