"""Calls in Gemma's own form of objects, and calls in Python."""

import ast

from .form import Format
from .output import Output
from .stream import CutOff, Mismatch, Reading, Stream
from .values import as_json, json_of, python_cost, python_source

_QUOTE = '<|"|>'  # Gemma's quotation mark
_DEEPEST = 64
_LONGEST = 1_000_000  # characters of Python
_MOST_COST = 10_000  # of them, by `python_cost`: about 70 ms


def read_gemma_call(stream: Stream, output: Output, form: Format) -> Reading[None]:
    """One call: `name{key:value,...}`."""
    output.call((yield from stream.name_before("{")))
    yield from _gemma_object(stream, output, 0)
    yield from stream.at(form.call[1])
    output.end()


def _gemma_object(stream: Stream, output: Output, depth: int) -> Reading[None]:
    """The rest of an object after its first bracket."""
    before = "{"
    while not (yield from stream.at("}")):
        if before == ", " and not (yield from stream.at(",")):
            raise Mismatch
        key = (yield from stream.name_before(":")).removeprefix(_QUOTE).removesuffix(_QUOTE)
        output.arguments(f"{before}{as_json(key)}: ")
        before = ", "
        yield from _gemma_value(stream, output, depth)
    output.arguments("}" if before == ", " else "{}")


def _gemma_value(stream: Stream, output: Output, depth: int) -> Reading[None]:
    if depth > _DEEPEST:
        raise Mismatch
    if (yield from stream.at(_QUOTE)):
        output.arguments(as_json((yield from stream.text_before(_QUOTE))))
    elif (yield from stream.at("{")):
        yield from _gemma_object(stream, output, depth + 1)
    elif (yield from stream.at("[")):
        before = "["
        while not (yield from stream.at("]")):
            if before == ", " and not (yield from stream.at(",")):
                raise Mismatch
            output.arguments(before)
            before = ", "
            yield from _gemma_value(stream, output, depth + 1)
        output.arguments("]" if before == ", " else "[]")
    else:
        word = yield from stream.name_before(",", "}", "]", keep=True)
        if not word:
            raise Mismatch
        output.arguments(json_of(word))


def read_python_calls(stream: Stream, output: Output, form: Format) -> Reading[None]:
    """A list of calls: `f(a='x'), g()]`. It is read as a whole."""
    parts: list[str] = []
    end = yield from stream.until([form.call[1]], parts.append)
    source = "".join(parts).strip().removeprefix("[").removesuffix("]")
    try:
        calls = _python_calls(source)
    except ValueError as error:
        raise (Mismatch if end else CutOff) from error
    for name, arguments in calls:
        output.call(name)
        output.arguments(arguments)
        output.end()


def _python_calls(source: str) -> list[tuple[str, str]]:
    """Names and JSON of the arguments. Raises ValueError."""
    if len(source) > _LONGEST or python_cost(source) > _MOST_COST:
        raise ValueError("too long")
    try:
        tree = ast.parse(f"[{python_source(source)}]", mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error
    calls = []
    for call in tree.elts if isinstance(tree, ast.List) else ():
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("not a call")
        try:
            arguments = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        except (TypeError, MemoryError, RecursionError) as error:
            raise ValueError(str(error)) from error
        if None in arguments:
            raise ValueError("no name")
        calls.append((call.func.id, as_json(arguments)))
    return calls
