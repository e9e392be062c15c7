"""`response_format` of OpenAI's API."""

from typing import Any

from ..errors import InvalidRequest
from .fields import Fields


def with_response_format(fields: Fields) -> Fields:
    """The fields with the schema that `response_format` asks for as `json_schema`. Raises InvalidRequest."""
    schema = _schema(fields)
    return fields if schema is None else fields.replaced({"json_schema": schema, "grammar": None})


def _schema(fields: Fields) -> Any:
    """The schema, None for text."""
    wanted = fields.object("response_format")
    kind = wanted.get("type") if wanted is not None else "text"
    if wanted is None or kind == "text":
        return None
    if fields.get("json_schema")[1] is not None:
        raise InvalidRequest("Field 'json_schema': give either response_format or json_schema", field="json_schema")
    if kind == "json_object":
        return wanted.get("schema") or {"type": "object"}
    if kind == "json_schema":
        holder = wanted.get("json_schema")
        schema = holder.get("schema") if isinstance(holder, dict) else wanted.get("schema")
        if schema is None:
            raise InvalidRequest("Field 'response_format.json_schema.schema': is required", field="response_format")
        return schema
    raise InvalidRequest(
        "Field 'response_format.type': must be text, json_object or json_schema", field="response_format"
    )
