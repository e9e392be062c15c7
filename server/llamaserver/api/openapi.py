"""The description of this API that the server itself offers.

`make generate` writes the generation fields into openapi.yaml, from the table in
interfaces/params.py.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from ..interfaces.declare import Parameter
from ..interfaces.params import GENERATION_PARAMETERS, SAMPLING_PARAMETERS
from .body import dumps, encoded_response
from .context import CONTEXT
from .schema import MAX_BREAKERS, MAX_SALT, MAX_SAMPLERS, MAX_STOPS

FILE = Path(__file__).with_name("openapi.yaml")
_BEGIN = "        # The next fields are made by `make generate` from interfaces/params.py.\n"
_END = "        # End of these fields.\n"
_KINDS = {float: "number", int: "integer", bool: "boolean"}
_STRING = {"type": "string"}
_BIAS = {"oneOf": [{"type": "number"}, {"type": "boolean", "enum": [False]}]}


def _strings(most: int) -> dict[str, Any]:
    return {"type": "array", "maxItems": most, "items": _STRING}


# Fields that are more than one number or one truth value, and the seed, which is another one by default.
_SHAPES: dict[str, dict[str, Any]] = {
    "cache_salt": {"type": "string", "maxLength": MAX_SALT},
    "dry_sequence_breakers": _strings(MAX_BREAKERS),
    "grammar": _STRING,
    "logit_bias": {
        "oneOf": [
            {"type": "object", "additionalProperties": _BIAS},
            {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {}}},
        ]
    },
    "lora": {
        "type": "array",
        "items": {"type": "object", "properties": {"id": {"type": "integer"}, "scale": {"type": "number"}}},
    },
    "penalty_prompt": {"oneOf": [_STRING, {"$ref": "#/components/schemas/Tokens"}], "nullable": True},
    "samplers": {"oneOf": [_STRING, _strings(MAX_SAMPLERS)]},
    "seed": {"type": "integer", "default": -1},
    "stop": {"oneOf": [_STRING, _strings(MAX_STOPS)]},
}


def field_schema(item: Parameter) -> dict[str, Any]:
    """The JSON schema of one generation field."""
    cost = f" At most {item.budget.most:,} {item.budget.unit} for all answers together." if item.budget else ""
    return {**(_SHAPES.get(item.attribute) or _plain(item)), "description": item.text + cost}


def _plain(item: Parameter) -> dict[str, Any]:
    limits = {"minimum": item.low, "maximum": item.high, "default": item.default}
    return {"type": _KINDS[item.kind], **{name: value for name, value in limits.items() if value is not None}}


def with_generation_fields(text: str) -> str:
    """The text of openapi.yaml with the generation fields as the table has them now."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    items = (*GENERATION_PARAMETERS, *SAMPLING_PARAMETERS)
    lines = [f"        {item.names[0]}: {json.dumps(field_schema(item))}\n" for item in items]
    return "".join([before, _BEGIN, *lines, _END, after])


@cache
def _document(prefix: str) -> bytes:
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return dumps(document | {"servers": [{"url": prefix}]} if prefix else document)


async def openapi(request: web.Request) -> web.StreamResponse:
    """GET /openapi.json."""
    return encoded_response(_document(request.app[CONTEXT].config.api_prefix))


def add_routes(app: web.Application) -> None:
    """Mount the endpoint of this file."""
    app.router.add_get("/openapi.json", openapi)


if __name__ == "__main__":
    print(with_generation_fields(FILE.read_text(encoding="utf-8")), end="")
