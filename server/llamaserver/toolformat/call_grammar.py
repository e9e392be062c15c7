"""The grammar of an answer that calls functions, for the format of a template."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..interfaces.backend import Vocab
from .argument_grammar import gemma_object, nested_arguments, python_arguments, tagged_arguments
from .form import ARGUMENTS_HERE, ID_HERE, NAME_HERE, Format, Mode
from .harmony_grammar import harmony_grammar
from .rules import Rules, one_of, quoted

Schema = dict[str, Any]
_PLACES = re.compile(f"({NAME_HERE}|{ARGUMENTS_HERE}|{ID_HERE})")
_SPACE = "SPACE?"


def call_grammar(
    form: Format,
    parameters: Mapping[str, Schema],
    vocab: Vocab,
    value: Callable[[Schema], str],
    *,
    required: bool,
    parallel: bool,
    content: str = "",
    begun: bool = False,
    weakened: set[str] | None = None,
) -> str:
    """Lark text of an answer with calls of the functions in `parameters`, the schemas of their parameters.

    `value` makes the Lark expression of a value of a schema. With `required`, nothing but calls is allowed. Else the
    answer is free until the mark of a call, or has the form of the Lark expression `content` if it has no calls.
    Without `parallel`, the answer ends after one call. `begun` says that the prompt ends with the mark of a call.
    Thoughts are not a part of the answer, except in Harmony. `weakened` gets the keywords that the grammar does not
    enforce, besides those that `value` does not.
    """
    rules = Rules(vocab, set() if weakened is None else weakened)
    if form.mode is Mode.HARMONY:
        return harmony_grammar(rules, {name: value(schema) for name, schema in parameters.items()}, required, content)
    calls = _Calls(form, rules, parameters, value, parallel=parallel)
    if required:
        rules.add("start", f"{calls.no_content()} {_SPACE} {calls.whole(begun=begun)}")
    elif content:
        rules.add("start", content, calls.whole(begun=begun))
    elif not form.openings:
        rules.add("start", calls.whole(), "OTHER")
        rules.add("OTHER", f"/(?s:.*)/ & ~/[ \\n]*{_escaped(calls.first_text)}(?s:.*)/")
    else:
        first = [calls.after_mark()] if begun else []
        again = [*(calls.after_text() if parallel else []), *calls.other_marks()]
        last = [*([] if parallel else calls.after_text()), "TEXT"]
        rules.add("start", " ".join([*first, *([f"({one_of(*again)})*"] if again else []), one_of(*last)]))
    return rules.text()


class _Calls:
    """The calls of an answer."""

    def __init__(
        self,
        form: Format,
        rules: Rules,
        parameters: Mapping[str, Schema],
        value: Callable[[Schema], str],
        *,
        parallel: bool,
    ) -> None:
        self._form, self._rules, self._value, self._parallel = form, rules, value, parallel
        bodies = [self._body(name, schema) for name, schema in parameters.items()]
        rules.add("body", *(rules.add(f"call_{i}", body) for i, body in enumerate(bodies)))
        rules.add("inner", f"{_SPACE} {self._bodies()} {_SPACE} {rules.mark(form.call[1])}")
        self._begin = self._unlisted(form.call[0])

    @property
    def first_text(self) -> str:
        """What calls without a mark begin with."""
        return _PLACES.split(self._form.object)[0]

    def whole(self, *, begun: bool = False) -> str:
        """Nothing but calls. `begun` says that the first mark is there already."""
        form, rules = self._form, self._rules
        call = f"{rules.mark(self._begin)} inner"
        more = f" ({_SPACE} {call})*" if self._parallel and self._begin and not self._form.many else ""
        if begun:
            return f"inner{more}"
        if not form.section[0]:
            return call + more
        return f"{rules.mark(form.section[0])} {_SPACE} {call}{more} {_SPACE} {rules.mark(form.section[1])}"

    def no_content(self) -> str:
        """The marks of a content that is not there, which some templates write."""
        begin, end = self._form.content
        named = begin.startswith(self._form.call[0])
        return "" if named or not (begin and end) else f"({self._rules.mark(begin)} {self._rules.mark(end)})?"

    def after_text(self) -> list[str]:
        """Calls after free text: one way for each mark that they can begin with."""
        form, rules = self._form, self._rules
        ways = []
        for mark in form.openings:
            if mark == form.section[0] and mark != form.call[0]:
                rest = self.whole().removeprefix(rules.mark(mark))
            else:
                rest = self.after_mark(mark)
            ways.append(rules.named(f"{rules.opening(self._unlisted(mark))} {rest}", prefix="calls"))
        return ways

    def after_mark(self, mark: str = "") -> str:
        """What follows the mark of a call. Some templates have the same mark before content."""
        mark, content = mark or self._form.call[0], self._form.content[0]
        if not content.startswith(mark):
            return "inner"
        return one_of("inner", f"{self._rules.mark(content.removeprefix(mark))} TEXT")

    def other_marks(self) -> list[str]:
        """Text before control tokens of content and thoughts, or before a whole mark that begins as one of calls."""
        form, rules = self._form, self._rules
        marks, of_calls = [*form.content, *form.think, form.turn_end], rules.tokens(list(form.openings))
        tokens = rules.tokens(marks) - of_calls
        shared = [mark for mark in marks if rules.tokens([mark]) & of_calls]
        return [
            *([f"TEXT {one_of(*sorted(tokens))}"] if tokens else []),
            *(rules.named(rules.opening(mark)) for mark in shared if mark != form.call[0]),
        ]

    def _unlisted(self, mark: str) -> str:
        return mark.removesuffix("[") if self._listed else mark

    @property
    def _listed(self) -> bool:
        return self._form.array or self._form.mode is Mode.PYTHON

    def _bodies(self) -> str:
        """One call between its marks, or several in a list."""
        if not self._listed:
            return f"body ({_SPACE} body)*" if self._form.many and self._parallel else "body"
        more = f' ("," {_SPACE} body)*' if self._parallel else ""
        return f'"[" {_SPACE} body{more} {_SPACE} "]"'

    def _body(self, name: str, schema: Schema) -> str:
        form, rules = self._form, self._rules
        match form.mode:
            case Mode.JSON:
                return self._object(name, schema)
            case Mode.GEMMA:
                return f"{quoted(name)} {gemma_object(rules, schema)}"
            case Mode.PYTHON:
                return f"{quoted(name + '(')} {python_arguments(rules, schema, self._value)} {quoted(')')}"
        name_end = rules.mark(form.name_end.replace(NAME_HERE, name))
        head = [f"ID {rules.mark(form.id_before)}" if form.id_before else "", quoted(name), name_end]
        if form.id_end:
            head.append(f"ID {rules.mark(form.id_end)}")
        if form.mode is Mode.TAG_JSON:
            arguments = self._value(schema)
        elif form.mode is Mode.NESTED:
            arguments = nested_arguments(rules, form, schema, self._value)
        else:
            arguments = tagged_arguments(rules, form, schema, self._value)
        return " ".join(part for part in (*head, _SPACE, arguments) if part)

    def _object(self, name: str, schema: Schema) -> str:
        """A JSON object, written as the template does."""
        known = {
            NAME_HERE: quoted(json.dumps(name, ensure_ascii=False)[1:-1]),
            ARGUMENTS_HERE: self._value(schema),
            ID_HERE: "ID",
        }
        pieces = _PLACES.split(self._form.object)
        return " ".join(known.get(piece) or quoted(piece) for piece in pieces if piece)


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", "\\/").replace("\n", "\\n")
