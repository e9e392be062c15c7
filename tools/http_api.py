"""The reference page of the HTTP API, from the server's OpenAPI document.

`python -m tools.http_api >docs/reference/http-api.md` writes it. `make generate` includes that.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Node = dict[str, Any]
SOURCE = Path(__file__).parent.parent / "server" / "llamaserver" / "api" / "openapi.yaml"
_WORDS = {  # schemas that need no section of their own
    "Scales": "list of object (`id`, `scale`)",
    "TextOrTokens": "string or list of token ids and strings",
    "TokenId": "token id",
    "Tokens": "list of token ids",
}
_COMMON = ("Generation", "OpenAi")  # their fields are in the bodies that include them
_HEAD = """# HTTP API

This page is made from `server/llamaserver/api/openapi.yaml` by `make generate`. A test keeps it current. A running
server answers `GET /openapi.json` with the same document.

With [API keys](../how-to/security.md), a client sends `Authorization: Bearer KEY`. Several paths in one heading are
names of one endpoint. A completion with `"stream": true` is answered by server-sent events. Every error has this form:

```json
{"error": {"code": 400, "message": "Field 'top_p': ...", "type": "invalid_request_error", "param": "top_p"}}
```

The paths below `/v1/messages` have Anthropic's form. So have those below `/v1/models`, for clients that send
`anthropic-version`:

```json
{"type": "error", "error": {"type": "invalid_request_error", "message": "Field 'top_p': ..."}, "request_id": "..."}
```

[Compatibility](compatibility.md) lists each item of llama.cpp's document of April 2024 with its tests.
The [metrics](metrics.md) have a page of their own.
"""


def page(document: Node) -> str:
    """The whole page."""
    schemas, parts = document["components"]["schemas"], [_HEAD, "## Endpoints\n"]
    for paths, operations in _endpoints(document["paths"]):
        for method, operation in operations.items():
            parts.append(_endpoint(method, paths, operation))
    common = schemas["Generation"]["properties"]
    parts.append("## Fields of every completion\n")
    parts.append(_table(common, ()))
    parts.append("## Bodies\n\nThe bodies of completions also take the fields above.\n")
    for name, schema in schemas.items():
        own = {key: value for key, value in schema.get("properties", {}).items() if key not in common}
        if name not in _COMMON and own:
            parts += [f"### {name}\n", _table(own, schema.get("required", ()))]
    return "\n".join(parts)


def _endpoints(paths: Node) -> Iterator[tuple[list[str], Node]]:
    """Each endpoint once, with all of its paths. Aliases in the YAML are the same object."""
    grouped: dict[int, tuple[list[str], Node]] = {}
    for path, item in paths.items():
        grouped.setdefault(id(item), ([], item))[0].append(path)
    yield from grouped.values()


def _endpoint(method: str, paths: list[str], operation: Node) -> str:
    text = f"### {method.upper()} {', '.join(paths)}\n\n{operation['summary']}.\n"
    if operation.get("parameters"):
        text += "\n"
    for parameter in operation.get("parameters", ()):
        needed = ", required" if parameter.get("required") else ""
        text += f"- `{parameter['name']}` ({parameter['in']}{needed}): {_type(parameter['schema'])}\n"
    if body := operation.get("requestBody"):
        text += f"\nBody: {_type(body['content']['application/json']['schema'])}\n"
    return text


def _table(fields: Node, required: tuple[str, ...] | list[str]) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = f"`{_json(field['default'])}`" if "default" in field else "required" if name in required else ""
        lines.append(f"| `{name}` | {_type(field)} | {default} | {field.get('description', '')} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


def _type(node: Node) -> str:
    """A type in words, with its bounds."""
    if name := node.get("$ref", "").rpartition("/")[2]:
        return _WORDS.get(name) or f"[{name}](#{name.lower()})"
    if either := node.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(each) for each in either))
    if "enum" in node:
        return " or ".join(f"`{_json(value)}`" for value in node["enum"])
    if node.get("type") == "array":
        return f"list of {_type(node['items'])}" if node.get("items") else "list"
    if node.get("type") == "object":
        return f"object ({', '.join(f'`{name}`' for name in node['properties'])})" if "properties" in node else "object"
    bounds = [f"{word} {node[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in node]
    return " ".join([node.get("type", "any value"), *bounds])


def _json(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.stdout.write(page(yaml.safe_load(SOURCE.read_text(encoding="utf-8"))))
