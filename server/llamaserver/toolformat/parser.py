"""Parses an answer as it comes into reasoning, content and calls."""

from .events import Event
from .form import Format, Mode
from .harmony import read_harmony
from .json_calls import read_json_calls
from .other_calls import read_gemma_call, read_python_calls
from .output import Output
from .schemas import Schemas
from .stream import CutOff, Mismatch, Reading, Stream
from .tagged_calls import read_tagged_calls


class Parser:
    """One answer. What is not in the format is content, never an error.

    `schemas` has the functions that can be called, with the schemas of their parameters. `prompt` is what the template
    has begun the answer with: it can be the begin of a thought. `held` counts the characters since something was
    certain. The end of the answer can mean that all of them are read again.
    """

    def __init__(self, form: Format, schemas: Schemas, prompt: str = "") -> None:
        self._form = form
        self._schemas = schemas
        self._stream = Stream()
        self._output = Output(schemas, on_end=lambda: self._stream.record(""))
        self._marks = [*form.openings, form.content[0], *form.again]
        self._reading = self._read()
        self.held = 0
        if prompt:
            self._output.restart(self.feed(prompt))
            self._stream.forget()

    def feed(self, text: str) -> list[Event]:
        """Take the next text. Returns what is certain now."""
        self._stream.put(text)
        self._advance()
        found = self._output.events()
        self.held = 0 if found else self.held + len(text)
        return found

    def close(self) -> list[Event]:
        """The answer has ended. Returns the rest."""
        self._stream.closed = True
        next(self._reading, None)
        self._advance()
        self._output.finish()
        return self._output.events()

    def _advance(self) -> None:
        while self._stream.more():
            next(self._reading, None)

    def _read(self) -> Reading[None]:
        stream, output, form = self._stream, self._output, self._form
        if form.mode is Mode.HARMONY:
            yield from self._tried(read_harmony(stream, output, form), "")
            return
        mark = yield from self._thoughts()
        if not mark and (form.bare or not form.openings):
            yield from self._unmarked()
        while mark or (mark := (yield from stream.until(self._marks, output.content))):
            if mark == form.content[0]:
                mark = yield from stream.until(form.content_ends, output.content)
                mark = mark if mark in form.openings else ""
                continue
            if mark == form.think[0]:
                yield from stream.until([form.think[1]], output.reasoning)
            elif mark not in form.again:
                yield from self._tried(self._calls(mark), mark)
            mark = ""

    def _thoughts(self) -> Reading[str]:
        """Reasoning. If a call follows that has not been parsed, its mark is returned."""
        stream, output, form = self._stream, self._output, self._form
        yield from self._turn()
        begin, end = form.think
        if not begin:
            return ""
        while (yield from stream.at(begin)):
            mark = yield from stream.until([end, *form.openings], output.reasoning)
            if mark and mark != end:
                # A call in a thought is only thought of. But some models do not end a thought before a call.
                held: list[str] = []
                if not (yield from stream.until([end], held.append)):
                    stream.put("".join(held))
                    return mark
                output.reasoning(mark + "".join(held))
            yield from self._turn()
        yield from stream.at(end)  # of a thought that the prompt has begun and ended
        return ""

    def _turn(self) -> Reading[None]:
        if self._form.turn.strip():
            yield from self._stream.at(self._form.turn)

    def _unmarked(self) -> Reading[None]:
        """Calls at the begin of an answer, where no mark tells of them."""
        while True:
            yield from self._stream.skip_space()
            if self._stream.text[:1] not in ("{", "["):
                return
            if not (yield from self._tried(self._calls(""), "")):
                return

    def _calls(self, mark: str) -> Reading[None]:
        stream, output, form = self._stream, self._output, self._form
        if form.mode is Mode.JSON:
            yield from read_json_calls(stream, output, form, marked=bool(mark))
        elif form.mode is Mode.GEMMA:
            yield from read_gemma_call(stream, output, form)
        elif form.mode is Mode.PYTHON:
            yield from read_python_calls(stream, output, form)
        else:
            yield from read_tagged_calls(stream, output, form, mark, self._schemas)

    def _tried(self, reading: Reading[None], mark: str) -> Reading[bool]:
        """Read calls. What turns out to be something else is content, from the end of the last whole call on."""
        stream, output = self._stream, self._output
        stream.record(mark)
        try:
            yield from reading
        except (Mismatch, CutOff):
            text = stream.recorded()
            if not output.calling:
                output.content(text)
            output.calling = False
            return False
        stream.recorded()
        return True
