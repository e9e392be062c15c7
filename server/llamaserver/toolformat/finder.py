"""Finds the format of a template: what stands around the known words of rendered samples."""

import re
from dataclasses import replace

from .form import ID_HERE, NAME_HERE, Format, Mode
from .json_shape import json_around, path_of, path_of_arguments, with_places
from .marks import common_prefix, common_suffix, first_piece, is_tag, pieces, same_letters, without_begin_of
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
        return found and replace(
            found, turn=self._turn, think=self._think, content=self._content, turn_end=self._turn_end()
        )

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

    def _turn_end(self) -> str:
        after = self._samples.content.partition(CONTENT)[2].lstrip()
        return first_piece(after.removeprefix(self._content[1])) if self._content[0] else ""

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
        found = json_around(self._one, len(self._before))
        if found is None:
            return None
        start, end, value = found
        name = path_of(value, NAME)
        arguments = path_of_arguments(value)
        if name is None or arguments is None:
            return None
        begin = self._one[:start].strip()
        close = first_piece(self._one[end:]) if begin else ""
        ids = path_of(value, ID)
        return Format(
            Mode.JSON,
            call=(begin, close),
            name_path=name,
            arguments_path=arguments,
            id_path=ids or (),
            object=with_places(self._one[start:end]),
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
        found = json_around(self._rest, self._rest.find(KEY)) if start >= 0 else None
        if found is None or found[0] != start:
            return None
        head, tail = self._rest[:start], self._rest[found[1] :]
        between = _between(self._two, "}")
        before, id_before = self._before, ""
        if ID in before:
            before, _, id_before = before.partition(ID)
            between = between.partition(OTHER_ID)[0]
        section, begin = _split_end(before, between)
        end, section_end = self._ends(tail, between, begin, section)
        name_end, id_end, numbered = self._after_name(head, "{")
        return Format(
            Mode.TAG_JSON,
            section=(section.strip(), section_end),
            call=(begin.strip(), end),
            id_before=id_before.strip(),
            name_end=name_end,
            id_end=id_end,
            numbered=numbered,
        )

    def _tagged(self) -> Format | None:
        """A pair of tags around each argument. The last tag can have the key in it, too."""
        head, _, rest = self._rest.partition(KEY)
        key_end, _, rest = rest.partition(VALUE)
        separator, _, rest = rest.partition(OTHER_KEY)
        if nested := KEY in separator:
            argument_end, _, argument = separator.partition(KEY)
            argument = argument.removeprefix(key_end)
            last = f"{argument_end}{OTHER_KEY}{key_end}"
        else:
            argument = common_suffix(head, separator)
            last = argument_end = separator.removesuffix(argument)
        if not (argument.strip() and argument_end.strip() and key_end):
            return None
        tail = rest.partition(OTHER_VALUE)[2]
        tail = tail.removeprefix(last) if tail.startswith(last) else tail.removeprefix(last.rstrip())
        between = _between(self._two, "").removeprefix(last)
        section, begin = _split_end(self._before, between)
        end, section_end = self._ends(tail, between, begin, section)
        name_end, id_end, numbered = self._after_name(head.removesuffix(argument), argument + KEY)
        key_end, attributes, attributes_end = (key_end, ("", ""), "") if nested else self._attributes(key_end)
        return Format(
            Mode.NESTED if nested else Mode.TAGGED,
            section=(section.strip(), section_end),
            call=(begin.strip(), end),
            name_end=name_end,
            id_end=id_end,
            numbered=numbered,
            argument=(argument.strip(), argument_end),
            key_end=key_end,
            attributes=attributes,
            attributes_end=attributes_end,
        )

    def _after_name(self, head: str, end: str) -> tuple[str, str, bool]:
        """What is after a name and after its id, and whether a number stands for the id. `head` is all of that text."""
        other = self._two.partition(OTHER_NAME)[2].partition(end)[0].replace(OTHER_NAME, NAME_HERE)
        head = head.replace(NAME, NAME_HERE)
        if head == other or not other:
            return head, "", False
        head, other = head.replace(ID, f" {ID_HERE}0"), other.replace(OTHER_ID, f" {ID_HERE}1")
        name_end = same_letters(head, other).removesuffix(f" {ID_HERE}")
        id_end = same_letters(head[::-1], other[::-1])[::-1]
        return name_end or head[:1], id_end.strip(), ID_HERE not in head

    def _ends(self, tail: str, between: str, begin: str, section: str) -> tuple[str, str]:
        """What stands after each call, and after the last. Every turn ends as one with content does."""
        end = common_prefix(tail, between) if between else ""
        end = without_begin_of(begin, end).strip() or first_piece(tail)
        if not section.strip():
            return end, ""
        rest = tail.partition(end)[2]
        if is_tag(first := first_piece(rest)):
            return end, first
        return end, rest.removesuffix(common_suffix(rest, self._samples.content.partition(CONTENT)[2])).strip() or first

    def _attributes(self, key_end: str) -> tuple[str, tuple[str, str], str]:
        """Split what follows a key, if a part of it tells the type of the value."""
        number = self._calls(self._samples.number).partition(KEY)[2].partition(str(NUMBER))[0]
        if not number or number == key_end:
            return key_end, ("", ""), ""
        same = len(same_letters(key_end, number))
        end = re.sub(r"^\w+", "", same_letters(key_end[::-1], number[::-1])[::-1])
        return key_end[:same], (key_end[same : -len(end)], number[same : -len(end)]), end


def _think(samples: Samples, source: str) -> tuple[str, str]:
    """The marks around reasoning."""
    for begin, end in _THINK:
        if end in source:
            return begin, end
    for text in samples.thoughts:
        before, found, after = text.partition(THOUGHT)
        if not found:
            continue
        of_all, of_prompt = common_prefix(before, samples.content), common_prefix(before, samples.prompt)
        if before == of_all == of_prompt and first_piece(after) not in samples.prompt:  # only the prompt has a mark
            before = samples.prompt
        shared = next((one for one in (of_all, of_prompt) if len(one) < len(before.rstrip())), "")
        before = before.removeprefix(shared)
        first = first_piece(after)
        end = first if re.fullmatch(r"<.*|\[.*\]", first) else after.lstrip().split("\n")[0]
        if before.strip() and end:
            return before.strip(), end
    return "", ""


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
