"""What restricts an answer to a JSON schema: `json_schema`, or `response_format` of OpenAI's API."""

from typing import Any

from ..errors import InvalidRequest
from ..grammar.json_schema import JsonValue, json_value
from ..interfaces.grammar import Constraint
from .fields import Fields
from .lanes import cancelled


def schema_constraint(fields: Fields) -> Constraint | None:
    """The constraint of the schema of a request, None without one. Raises InvalidRequest."""
    if fields.get("json_schema")[1] is None:
        return None
    if fields.string("grammar"):
        raise InvalidRequest("Field 'json_schema': give either grammar or json_schema", field="json_schema")
    value = schema_value(fields)
    return Constraint(f"start: {value.lark}", field=_source(fields), weakened=value.weakened)


def schema_value(fields: Fields) -> JsonValue:
    """The JSON value that `json_schema` asks for. Errors name the field that the client sent. Raises InvalidRequest."""
    strict = _holder(fields).get("strict") is True
    return json_value(fields.get("json_schema")[1], field=_source(fields), strict=strict, cancelled=cancelled)


def _source(fields: Fields) -> str:
    wanted = fields.get("response_format")[1]
    return "response_format" if isinstance(wanted, dict) and wanted.get("type") != "text" else "json_schema"


def _holder(fields: Fields) -> dict[str, Any]:
    wanted = fields.get("response_format")[1]
    holder = wanted.get("json_schema") if isinstance(wanted, dict) else None
    return holder if isinstance(holder, dict) else {}
