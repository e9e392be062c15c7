"""The channels of gpt-oss (https://cookbook.openai.com/articles/openai-harmony)."""

import re

from .form import Format
from .output import Output
from .stream import Mismatch, Reading, Stream

_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_MESSAGE = "<|message|>"
_RECIPIENT = re.compile(r"to=functions\.([\w.-]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


def read_harmony(stream: Stream, output: Output, form: Format) -> Reading[None]:
    """A whole answer: analysis is reasoning, a message to a function is a call, all else is content."""
    yield from stream.at(form.turn)
    while True:
        header: list[str] = []
        if not (yield from stream.until([_MESSAGE], header.append)):
            output.content("" if "<|" in (text := "".join(header)) else text)
            return
        head = "".join(header)
        channel = _CHANNEL.findall(head)[-1:]  # some models name two
        recipient = _RECIPIENT.search(head)
        if recipient and _begins(output, recipient[1]):
            yield from stream.json_value(output.arguments)
            output.end()
            yield from stream.until(_ENDS, lambda text: None)
        elif channel == ["analysis"]:
            yield from stream.until(_ENDS, output.reasoning)
        else:
            yield from stream.until(_ENDS, output.content)
        yield from stream.at(form.turn)


def _begins(output: Output, name: str) -> bool:
    try:
        output.call(name)
    except Mismatch:
        return False
    return True
