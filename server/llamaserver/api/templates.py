"""Chat templates: Jinja from the command line or the model's metadata, in a sandbox.

A template is text from a stranger (it comes with the model). It runs immutable and sandboxed, in an
executor thread, and what it renders is bounded.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InvalidRequest

MAX_RENDERED = 16 * 1024 * 1024  # characters
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _raise(message: str) -> NoReturn:
    raise InvalidRequest(f"the chat template refuses the messages: {message}", field="messages")


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@lru_cache(maxsize=8)
def compile_template(text: str) -> jinja2.Template:
    """Compile a template; InvalidRequest when it is no Jinja."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    try:
        return environment.from_string(text)
    except jinja2.TemplateError as error:
        raise InvalidRequest(f"the chat template is not valid Jinja: {error}") from error


def render(
    template: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, variables: Mapping[str, Any]
) -> str:
    """Render the messages; InvalidRequest for whatever the template does wrong."""
    names = {**variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
    pieces: list[str] = []
    size = 0
    try:
        for piece in compile_template(template).generate(names):
            size += len(piece)
            if size > MAX_RENDERED:
                raise InvalidRequest("the rendered chat is too long", field="messages")
            pieces.append(piece)
    except InvalidRequest:
        raise
    except Exception as error:  # a template can raise whatever Python can
        raise InvalidRequest(f"the chat template cannot render these messages: {error}", field="messages") from error
    return "".join(pieces)
