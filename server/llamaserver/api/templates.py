"""Chat templates in Jinja, compiled and rendered in a sandbox.

A template comes with the model, so it is not trusted. It runs in Jinja's immutable sandbox on a worker thread. Its
CPU time and the text that it renders are bounded. Its memory is not: there the limit of the container holds.
"""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from time import thread_time
from traceback import walk_tb
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import InvalidRequest, ServerError, TemplateFailure, TemplateRefusal

MAX_RENDERED = 16 * 1024 * 1024  # characters
MAX_SECONDS = 10.0  # of CPU time for one rendering
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_LONGEST_NUMBER = 4096  # bits
_LIST_METHODS = ("append", "extend", "insert", "pop")  # Kimi K2 keeps a queue in a list
_deadline: ContextVar[float] = ContextVar("deadline")  # in CPU seconds of the thread that renders


def compile_template(text: str) -> jinja2.Template:
    """Compile a template. Raises TemplateFailure if it is no Jinja."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    try:
        tree = environment.parse(text)
        _watch(tree, environment)
        return jinja2.Template.from_code(environment, environment.compile(tree), environment.make_globals(None))
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFailure(f"line {error.lineno}: {error.message}") from error
    except Exception as error:  # Jinja uses Python's compiler, which has limits
        raise TemplateFailure(f"{type(error).__name__}: {error}") from error


def render(template: jinja2.Template, variables: Mapping[str, Any], *, seconds: float | None = None) -> str:
    """Render a compiled template in at most `seconds` of CPU time, by default MAX_SECONDS.

    Raises TemplateRefusal if the template calls raise_exception, InvalidRequest if the text is too long, and
    TemplateFailure for any other error.
    """
    pieces: list[str] = []
    size = 0
    _deadline.set(thread_time() + (MAX_SECONDS if seconds is None else seconds))
    try:
        for piece in template.generate(variables):
            size += len(piece)
            if size > MAX_RENDERED:
                raise InvalidRequest("the rendered chat is too long", field="messages")
            pieces.append(piece)
    except ServerError:
        raise
    except Exception as error:  # a template can raise any exception
        raise TemplateFailure(f"{_place(error)}{type(error).__name__}: {error}") from error
    return "".join(pieces)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with the methods of lists that templates need, and without what takes unbounded time."""

    intercepted_binops = frozenset(("*", "**"))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, list) and attr in _LIST_METHODS:
            return True
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse large powers and products: Python computes each in one step, which nothing can interrupt."""
        numbers = isinstance(left, int) and isinstance(right, int)
        if operator == "*" and not numbers:
            size = len(left) * right if isinstance(right, int) and hasattr(left, "__len__") else 0
            size = size or (len(right) * left if isinstance(left, int) and hasattr(right, "__len__") else 0)
            if size > MAX_RENDERED:
                raise OverflowError("the product is too long")
        elif numbers:
            bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * max(right, 0)
            if bits > _LONGEST_NUMBER:
                raise OverflowError("the number is too large")
        return super().call_binop(context, operator, left, right)

    def tick(self) -> None:
        """Called in each turn of a loop and each call of a macro."""
        if thread_time() > _deadline.get():
            raise TimeoutError("the template takes too much time")


class _Generation(Extension):
    """`{% generation %}` marks the words of the assistant, for training. Here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _watch(tree: nodes.Template, environment: jinja2.Environment) -> None:
    """Put a call of `tick` wherever a template can go in circles."""
    node: Any  # one of those that have a body
    for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))):
        call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))
    tree.set_environment(environment)


def _raise(message: str) -> NoReturn:
    raise TemplateRefusal(f"the chat template refuses the messages: {message}", field="messages")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` with the arguments that it has in Hugging Face's transformers."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_listed
    )


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Iterator):  # filters such as `map` give iterators
        return list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _place(error: Exception) -> str:
    """The line of the template where it failed. Jinja puts its lines into the traceback."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f"line {lines[-1]}: " if lines else ""
