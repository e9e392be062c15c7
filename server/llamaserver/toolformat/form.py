"""The format of a model's answers."""

from dataclasses import dataclass
from enum import Enum
from itertools import chain

from .marks import first_piece


class Mode(Enum):
    """Where the name and the arguments of a call are."""

    JSON = "json"  # both in one JSON object:      <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>
    TAG_JSON = "tag_json"  # the arguments are JSON:       <function=f>{"a": 1}</function>
    TAGGED = "tagged"  # each argument has tags:       <function=f><parameter=a>1</parameter></function>
    NESTED = "nested"  # names are tags, in values too: <function=f><a><b>1</b></a></function>
    GEMMA = "gemma"  # objects in Gemma's own form:    <|tool_call>call:f{a:1}<tool_call|>
    PYTHON = "python"  # calls in Python:              <|tool_call_start|>[f(a=1)]<|tool_call_end|>
    HARMONY = "harmony"  # channels of gpt-oss:        <|channel|>commentary to=functions.f<|message|>{"a": 1}


NAME_HERE, ARGUMENTS_HERE, ID_HERE = "\ue000", "\ue001", "\ue002"  # places in the text of a call
_MARKS_OF_MODE = {
    Mode.GEMMA: ('<|"|>',),
    Mode.HARMONY: ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
}


@dataclass(frozen=True, slots=True)
class Format:
    """The marks of a format. White space around marks is free. "" is a mark that the format does not have."""

    mode: Mode
    turn: str = ""  # before everything, as in the prompt
    think: tuple[str, str] = ("", "")  # around reasoning
    content: tuple[str, str] = ("", "")  # around content
    turn_end: str = ""  # after content that has marks, and after calls
    section: tuple[str, str] = ("", "")  # around all calls
    call: tuple[str, str] = ("", "")  # around one call
    name_path: tuple[str, ...] = ()  # JSON: keys that lead to the name. "*" is the name itself as the key
    arguments_path: tuple[str, ...] = ()  # JSON: keys that lead to the arguments
    id_path: tuple[str, ...] = ()  # JSON: keys that lead to the id
    object: str = ""  # JSON: the text of one call, with NAME_HERE, ARGUMENTS_HERE and ID_HERE in it
    array: bool = False  # JSON: whether calls are in an array
    bare: bool = False  # JSON: whether an answer may begin with a call without its mark
    many: bool = False  # JSON: whether one pair of marks is around several calls
    id_before: str = ""  # what is between an id and the name that follows it
    name_end: str = ""  # after the name, with NAME_HERE where it stands once more
    id_end: str = ""  # after an id that follows the name
    numbered: bool = False  # whether the id is only the number of the call
    argument: tuple[str, str] = ("", "")  # around one argument
    key_end: str = ""  # after the name of an argument
    attributes: tuple[str, str] = ("", "")  # that follow the name of an argument: of a string, of another value
    attributes_end: str = ""  # after them

    @property
    def thought(self) -> tuple[str, str]:
        """What is around a thought, for those who read no headers."""
        return ("<|channel|>analysis<|message|>", "<|end|>") if self.mode is Mode.HARMONY else self.think

    @property
    def answer(self) -> str:
        """What a model writes between its thought and the content."""
        return "<|start|>assistant<|channel|>final<|message|>" if self.mode is Mode.HARMONY else self.content[0]

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks that the parser needs. A turn that begins where there is no mark around the content is not read."""
        pairs = (self.think, self.content, self.section, self.call, self.argument)
        ends = (self.id_before, *self.name_end.split(NAME_HERE), self.id_end, self.key_end, self.attributes_end)
        turn = self.turn if self.content[0] else ""
        marks = (turn, *chain(*pairs), *ends, *_MARKS_OF_MODE.get(self.mode, ()))
        return tuple(dict.fromkeys(mark for mark in marks if mark.strip()))

    @property
    def again(self) -> tuple[str, ...]:
        """The marks of thoughts and turns that may come after content.

        Only those with control tokens: other marks may be a part of the content.
        """
        begin, end = self.think
        turn = (self.turn, self.turn_end) if self.content[0] else ()
        marks = (begin, first_piece(begin), end, *turn)
        return tuple(dict.fromkeys(mark.strip() for mark in marks if "|" in first_piece(mark)))

    @property
    def content_ends(self) -> tuple[str, ...]:
        """The marks that end a content with a mark before it, in place of which the name of a function can be."""
        begin = self.call[0]
        named = begin and self.content[0].startswith(begin) and not begin[0].isalnum()
        return (self.content[1], *self.again, *([begin] if named else []))

    @property
    def openings(self) -> tuple[str, ...]:
        """The marks that calls can begin with, none if they begin with their JSON.

        Some models leave out a section's mark, or the first line of a call's.
        """
        marks = (*self.section[:1], self.call[0], *self.call[0].split("\n")[-1:])
        return tuple(dict.fromkeys(mark for mark in marks if mark.strip()))
