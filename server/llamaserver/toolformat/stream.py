"""Text that comes piece by piece, and generators that read it. A generator yields when it needs more text."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]
Emit = Callable[[str], object]

_PIECE = 4096  # characters that are looked at together: what is read is cut off the rest each time
_LONGEST_NAME = 1024  # characters of what should be a name or an id


class Mismatch(Exception):
    """The text is not in the format."""


class CutOff(Exception):
    """The text ended in the middle."""


class Stream:
    """The text that has come and is not read yet: `text`, which is a short piece, and the pieces after it."""

    def __init__(self) -> None:
        self.text = ""
        self.closed = False  # nothing more is put in, but for what was read before
        self._pieces: deque[str] = deque()
        self._record: list[str] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing comes after `text`."""
        return self.closed and not self._pieces

    def put(self, text: str) -> None:
        """Add text after all that is not read yet."""
        self._pieces.extend(text[start : start + _PIECE] for start in range(0, len(text), _PIECE))

    def more(self) -> bool:
        """Add the next piece to `text`. Returns whether there was one."""
        if not self._pieces:
            return False
        self.text += self._pieces.popleft()
        return True

    def record(self, first: str) -> None:
        """Begin to remember what is read, after `first`."""
        self._record = [first]

    def forget(self) -> None:
        """Do not remember what was read until now. A record goes on."""
        if self._record is not None:
            self._record = []

    def recorded(self) -> str:
        """What was read since `record`. This ends the record."""
        text = "".join(self._record or ())
        self._record = None
        return text

    def take(self, count: int) -> str:
        """Read that many characters, or as many as there are."""
        taken, self.text = self.text[:count], self.text[count:]
        if self._record is not None:
            self._record.append(taken)
        return taken

    def need(self) -> Reading[None]:
        """Wait for one character. Raises CutOff at the end."""
        while not self.text:
            if self.ended:
                raise CutOff
            yield

    def skip_space(self) -> Reading[None]:
        """Read white space, and wait for what follows it."""
        while True:
            self.take(len(self.text) - len(self.text.lstrip()))
            if self.text or self.ended:
                return
            yield

    def at(self, mark: str) -> Reading[bool]:
        """Whether a mark comes next, after any white space. If so, it is read."""
        mark = mark.strip()
        yield from self.skip_space()
        while not self.text.startswith(mark):
            if self.ended or not mark.startswith(self.text):
                return False
            yield
        self.take(len(mark))
        return True

    def until(self, marks: Sequence[str], emit: Emit) -> Reading[str]:
        """Emit text until one of the marks, which is read and returned. "" at the end of the text.

        Text that may be the begin of a mark is held back until this is decided.
        """
        marks = [mark for mark in marks if mark]
        while True:
            found = [(place, -len(mark), mark) for mark in marks if (place := self.text.find(mark)) >= 0]
            if found:
                place, _, mark = min(found)
                emit(self.take(place))
                if self.ended or not any(longer != mark and longer.startswith(self.text) for longer in marks):
                    self.take(len(mark))
                    return mark
            else:
                emit(self.take(len(self.text) - (0 if self.ended else _begun(self.text, marks))))
                if self.ended:
                    return ""
            yield

    def text_before(self, mark: str) -> Reading[str]:
        """The text before a mark, which is read too. Raises CutOff without the mark."""
        parts: list[str] = []
        if not (yield from self.until([mark], parts.append)):
            raise CutOff
        return "".join(parts)

    def name_before(self, *marks: str, keep: bool = False) -> Reading[str]:
        """A name or an id, up to one of the marks. The mark is read unless `keep`."""
        while True:
            found = [(place, -len(mark)) for mark in marks if mark and (place := self.text.find(mark)) >= 0]
            if found:
                place, length = min(found)
                if place > _LONGEST_NAME:
                    raise Mismatch
                name = self.take(place).strip()
                self.take(0 if keep else -length)
                return name
            if len(self.text) > _LONGEST_NAME:
                raise Mismatch
            if self.ended:
                raise CutOff
            yield

    def json_value(self, emit: Emit) -> Reading[None]:
        """Emit one JSON value as it comes. Only brackets and strings are looked at."""
        yield from self.skip_space()
        depth, quoted, escaped, bare = 0, False, False, False
        while True:
            yield from self.need()
            end = None  # of the value, if it is in the text
            for place, letter in enumerate(self.text):
                if quoted:
                    quoted, escaped = (escaped or letter != '"'), (letter == "\\" and not escaped)
                    closes = not quoted
                elif letter in "}]":
                    if not depth:
                        end = place
                        break
                    depth -= 1
                    closes = True
                else:
                    quoted = letter == '"' and not bare
                    depth += letter in "{["
                    if not depth and not quoted and (letter in ",:" or letter.isspace()):
                        end = place
                        break
                    bare = bare or not (depth or quoted)
                    closes = False
                if closes and not depth:
                    end = place + 1
                    break
            emit(self.take(len(self.text) if end is None else end))
            if end is not None or (bare and self.ended and not self.text):
                return


def _begun(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end may be the begin of a mark."""
    return max(
        (count for mark in marks for count in range(1, min(len(mark), len(text) + 1)) if text.endswith(mark[:count])),
        default=0,
    )
