"""Finds the format of a template: what stands around the known words of rendered samples."""

import json
import re
from dataclasses import replace
from itertools import islice
from typing import Any

from .form import ARGUMENTS_HERE, ID_HERE, NAME_HERE, Format, Mode
from .marks import common_prefix, common_suffix, first_piece, pieces
from .samples import (
    CONTENT,
    ID,
    KEY,
    NAME,
    NUMBER,
    OTHER_ID,
    OTHER_KEY,
    OTHER_NAME,
    OTHER_VALUE,
    THOUGHT,
    VALUE,
    Render,
    Samples,
)

_THINK = (  # marks that some templates name but do not render
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_MOST_BRACKETS = 64  # that may come before the object
_LONGEST = 200_000  # characters of all samples: templates of models make a tenth of this


def find_format(render: Render, source: str) -> Format | None:
    """The format of a template with that source. None if its calls have a form that is not known."""
    if "<|channel|>" in source:
        return Format(Mode.HARMONY, turn="<|start|>assistant")
    samples = Samples(render)
    return _Finder(samples, source).format() if samples.size <= _LONGEST else None


class _Finder:
    def __init__(self, samples: Samples, source: str) -> None:
        self._samples = samples
        self._think = _think(samples, source)
        self._turn = self._begin()
        self._content = self._around_content()
        self._one = self._calls(samples.call)
        self._two = self._calls(samples.two_calls)
        self._before, _, self._rest = self._one.partition(NAME)

    def format(self) -> Format | None:
        """Try the modes, from the most certain to the least."""
        found = None
        if NAME in self._one:
            found = self._gemma() or self._json() or self._python() or self._tag_json() or self._tagged()
        return found and replace(found, turn=self._turn, think=self._think, content=self._content)

    # ---- what is around the calls

    def _begin(self) -> str:
        prompt = self._samples.prompt
        if self._think[0] and self._think[0] in prompt:
            prompt = prompt.partition(self._think[0])[0]
        return common_prefix(self._thoughtless(self._samples.content), prompt)

    def _around_content(self) -> tuple[str, str]:
        before, _, after = self._body(self._samples.content).partition(CONTENT)
        if re.fullmatch(r"(<[^<>\s]+>)+", before.strip()):  # a new turn, and the content in it
            before = pieces(before.strip())[-1]
        return (before.strip(), first_piece(after)) if before.strip() else ("", "")

    def _body(self, text: str) -> str:
        return self._thoughtless(text).removeprefix(self._turn)

    def _calls(self, text: str) -> str:
        """A turn with calls, without the marks of a content that is not there."""
        body = self._body(text)
        begin, end = self._content
        return body.replace(begin + end, "", 1) if begin and body.lstrip().startswith(begin + end) else body

    def _thoughtless(self, text: str) -> str:
        begin, end = self._think
        if not begin:
            return text
        text = re.sub(rf"{re.escape(begin)}\s*+(?:{THOUGHT})?\s*+{re.escape(end)}\s*", "", text)
        for mark in (end, begin):
            text = re.sub(rf"{re.escape(mark)}\s*", "", text, count=1)
        return text

    # ---- the modes

    def _gemma(self) -> Format | None:
        if not self._before.strip().endswith("<|tool_call>call:"):
            return None
        return Format(Mode.GEMMA, call=("<|tool_call>call:", "<tool_call|>"))

    def _json(self) -> Format | None:
        """An object that has the name, as a value or as a key."""
        found = _json_around(self._one, len(self._before))
        if found is None:
            return None
        start, end, value = found
        name = _path(value, NAME)
        arguments = _path_of_arguments(value)
        if name is None or arguments is None:
            return None
        begin = self._one[:start].strip()
        close = first_piece(self._one[end:]) if begin else ""
        ids = _path(value, ID)
        return Format(
            Mode.JSON,
            call=(begin, close),
            name_path=name,
            arguments_path=arguments,
            id_path=ids or (),
            object=_with_places(self._one[start:end]),
            array=isinstance(value, list),
            many=begin not in _between(self._two, ""),
        )

    def _python(self) -> Format | None:
        if not re.match(rf"\(\s*{KEY}\s*=", self._rest):
            return None
        after = self._rest[self._rest.find(OTHER_VALUE) + len(OTHER_VALUE) :]
        return Format(Mode.PYTHON, call=(self._before.strip(), first_piece(after.lstrip("'\")]"))))

    def _tag_json(self) -> Format | None:
        """Arguments as an object that follows the name."""
        start = self._rest.find("{")
        found = _json_around(self._rest, self._rest.find(KEY)) if start >= 0 else None
        if found is None or found[0] != start:
            return None
        head, tail = self._rest[:start], self._rest[found[1] :]
        between = _between(self._two, "}")
        other_head = self._two.partition(OTHER_NAME)[2].partition("{")[0]
        before, id_before = self._before, ""
        if ID in before:
            before, _, id_before = before.partition(ID)
            between = between.partition(OTHER_ID)[0]
        section, begin = _split_end(before, between)
        end, section_end = _ends(tail, between, begin, bool(section.strip()))
        name_end, id_end = head, ""
        if head != other_head or ID in head:  # an id, or a number in its place, follows the name
            name_end = common_prefix(head.replace(ID, "\0"), other_head.replace(OTHER_ID, "\1")) or head[:1]
            id_end = common_suffix(head.replace(ID, " \0 "), other_head.replace(OTHER_ID, " \1 "))
        return Format(
            Mode.TAG_JSON,
            section=(section.strip(), section_end),
            call=(begin.strip(), end),
            id_before=id_before.strip(),
            name_end=name_end,
            id_end=id_end.strip(),
        )

    def _tagged(self) -> Format | None:
        """A pair of tags around each argument."""
        head, _, rest = self._rest.partition(KEY)
        key_end, _, rest = rest.partition(VALUE)
        separator, _, rest = rest.partition(OTHER_KEY)
        _, _, tail = rest.partition(OTHER_VALUE)
        argument = common_suffix(head, separator)
        argument_end = separator.removesuffix(argument)
        between = _between(self._two, "")
        section, begin = _split_end(self._before, between)
        tail = (
            tail.removeprefix(argument_end)
            if tail.startswith(argument_end)
            else tail.removeprefix(argument_end.rstrip())
        )
        end, section_end = _ends(tail, between.removeprefix(argument_end), begin, bool(section.strip()))
        if not (argument.strip() and argument_end.strip() and key_end):
            return None
        key_end, attributes, attributes_end = self._attributes(key_end)
        return Format(
            Mode.TAGGED,
            section=(section.strip(), section_end),
            call=(begin.strip(), end),
            name_end=head.removesuffix(argument),
            argument=(argument.strip(), argument_end),
            key_end=key_end,
            attributes=attributes,
            attributes_end=attributes_end,
        )

    def _attributes(self, key_end: str) -> tuple[str, tuple[str, str], str]:
        """Split what follows a key, if a part of it tells the type of the value."""
        number = self._calls(self._samples.number).partition(KEY)[2].partition(str(NUMBER))[0]
        if not number or number == key_end:
            return key_end, ("", ""), ""
        same = next((i for i, pair in enumerate(zip(key_end, number, strict=False)) if pair[0] != pair[1]), len(number))
        return key_end[:same], (key_end[same:-1], number[same:-1]), key_end[-1]


def _think(samples: Samples, source: str) -> tuple[str, str]:
    """The marks around reasoning."""
    for begin, end in _THINK:
        if end in source:
            return begin, end
    for text in samples.thoughts:
        before, found, after = text.partition(THOUGHT)
        if not found:
            continue
        for shared in (common_prefix(before, samples.content), common_prefix(before, samples.prompt)):
            if len(shared) < len(before.rstrip()):
                before = before.removeprefix(shared)
                break
        first = first_piece(after)
        end = first if re.fullmatch(r"<.*|\[.*\]", first) else after.lstrip().split("\n")[0]
        if before.strip() and end:
            return before.strip(), end
    return "", ""


def _json_around(text: str, place: int) -> tuple[int, int, Any] | None:
    """Start, end and value of the outermost JSON object or array that has this place in it."""
    for match in islice(re.finditer(r"[{\[]", text[: place + 1]), _MOST_BRACKETS):
        try:
            value, end = json.JSONDecoder().raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        if end > place:
            return match.start(), end, value
    return None


def _with_places(text: str) -> str:
    """The text of one call with places for what differs from call to call."""
    text = text.removeprefix("[").removesuffix("]").strip() if text.startswith("[") else text
    start = text.rfind("{", 0, text.find(KEY))
    if text[start - 1] == '"':  # the arguments are a text with JSON
        start -= 1
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return ""
    return (
        (text[:start] + ARGUMENTS_HERE + text[end:])
        .replace(NAME, NAME_HERE)
        .replace(ID, ID_HERE)
        .replace('"0"', f'"{ID_HERE}"')
    )


def _path(value: Any, wanted: str, path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """The keys that lead to a text. "*" stands for a key that is the name of the function."""
    if isinstance(value, list):
        return next((found for item in value if (found := _path(item, wanted, path)) is not None), None)
    if not isinstance(value, dict):
        return path if value == wanted else None
    for key, item in value.items():
        if key == wanted:
            return (*path, "*")
        found = _path(item, wanted, (*path, "*" if key == NAME else key))
        if found is not None:
            return found
    return None


def _path_of_arguments(value: Any) -> tuple[str, ...] | None:
    """The keys that lead to the arguments, which may be a text with JSON."""
    inner = _path(value, VALUE)
    if inner:
        return inner[:-1]
    text = json.dumps(value)
    return next((_path(value, each) for each in _texts(value) if KEY in each), None) if KEY in text else None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _texts(item)]


def _between(two: str, end: str) -> str:
    """What is between the arguments of the first call and the name of the second."""
    between = two.partition(OTHER_VALUE)[2].partition(OTHER_NAME)[0] if OTHER_NAME in two else ""
    return between.partition(end)[2] if end else between


def _split_end(before: str, between: str) -> tuple[str, str]:
    """What stands before the first call only, and what before each."""
    if not between:
        return "", before
    begin = common_suffix(before, between)
    return before.removesuffix(begin), begin


def _ends(tail: str, between: str, begin: str, section: bool) -> tuple[str, str]:
    """What stands after each call, and after the last."""
    end = common_prefix(tail, between) if between else ""
    if begin.strip() and end.rstrip().endswith(begin.strip()):
        end = end.rstrip().removesuffix(begin.strip())
    end = end.strip() or first_piece(tail)
    return end, first_piece(tail.partition(end)[2]) if section else ""
