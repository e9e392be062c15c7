"""Chat templates: Jinja from the command line or the model's metadata, in a sandbox.

A template comes with the model, so it is not trusted. It runs in Jinja's immutable sandbox, in an executor thread,
and the text that it renders is bounded.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from traceback import walk_tb
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InvalidRequest, ServerError, TemplateFailure, TemplateRefusal

MAX_RENDERED = 16 * 1024 * 1024  # characters
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _raise(message: str) -> NoReturn:
    raise TemplateRefusal(f"the chat template refuses the messages: {message}", field="messages")


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


class _Generation(Extension):
    """`{% generation %}` marks the words of the assistant, for training. Here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=8)
def compile_template(text: str) -> jinja2.Template:
    """Compile a template. Raises TemplateFailure if it is no Jinja."""
    extensions = [loopcontrols, _Generation]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFailure(f"line {error.lineno}: {error.message}") from error
    except Exception as error:  # Jinja uses Python's compiler, which has limits
        raise TemplateFailure(f"{type(error).__name__}: {error}") from error


def render(
    template: str, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, variables: Mapping[str, Any]
) -> str:
    """Render the messages. Raises TemplateRefusal if the template does not take them, TemplateFailure if it fails."""
    names = {**variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
    pieces: list[str] = []
    size = 0
    try:
        for piece in compile_template(template).generate(names):
            size += len(piece)
            if size > MAX_RENDERED:
                raise InvalidRequest("the rendered chat is too long", field="messages")
            pieces.append(piece)
    except ServerError:
        raise
    except Exception as error:  # a template can raise any exception
        raise TemplateFailure(f"{_place(error)}{type(error).__name__}: {error}") from error
    return "".join(pieces)


def _place(error: Exception) -> str:
    """The line of the template where it failed. Jinja puts its lines into the traceback."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f"line {lines[-1]}: " if lines else ""
