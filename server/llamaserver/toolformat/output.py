"""Collects the events of an answer."""

from collections.abc import Callable, Collection, Sequence

from .events import Arguments, Call, Content, End, Event, Reasoning
from .stream import Mismatch


class Output:
    """Events since they were last asked for. White space at the ends of reasoning and content is left out."""

    def __init__(self, names: Collection[str], on_end: Callable[[], None]) -> None:
        self.calling = False  # between Call and End
        self._names = names
        self._on_end = on_end
        self.restart()

    def restart(self, found: Sequence[Event] = ()) -> None:
        """Forget what was found, but for a call that goes on."""
        begins = [place for place, event in enumerate(found) if isinstance(event, Call)]
        self._events: list[Event] = list(found[begins[-1] :]) if self.calling and begins else []
        self._held: dict[type[Reasoning] | type[Content], list[str]] = {Reasoning: [], Content: []}  # white space
        self._begun = {Reasoning: False, Content: False}
        self._called = False  # after the last content

    def events(self) -> list[Event]:
        """What was found since the last time."""
        found, self._events = self._events, []
        return found

    def reasoning(self, text: str) -> None:
        """More of the thoughts."""
        self._text(Reasoning, text)

    def content(self, text: str) -> None:
        """More of the content."""
        self._text(Content, text)

    def call(self, name: str, call_id: str = "") -> None:
        """Begin a call. Raises Mismatch for a function that the request does not have."""
        if name not in self._names:
            raise Mismatch
        self.calling = self._called = True
        self._events.append(Call(name, call_id))

    def arguments(self, text: str) -> None:
        """More of the arguments of the call."""
        if text:
            self._events.append(Arguments(text))

    def end(self) -> None:
        """The call is complete."""
        self.calling = False
        self._on_end()
        self._events.append(End())

    def finish(self) -> None:
        """The answer ends: its last white space belongs to it, unless a call follows that."""
        if (held := "".join(self._held[Content])) and not self._called:
            self._events.append(Content(held))
            self._held[Content].clear()

    def _text(self, kind: type[Reasoning] | type[Content], text: str) -> None:
        """Add text. White space is held until something follows it, and left out if that never comes."""
        held = self._held[kind]
        if not self._begun[kind]:
            text = text.lstrip()
        if kept := text.rstrip():
            self._begun[kind] = True
            self._called = False
            self._events.append(kind("".join(held) + kept))
            held.clear()
        if space := text[len(kept) :]:
            held.append(space)
