"""Puts the thoughts of an answer where its request wants them."""

from typing import Literal

from ..toolformat.events import Content, Event, Reasoning

Place = Literal["apart", "both", "content"]


class Thoughts:
    """The thoughts of one answer: apart from the content, in the content between their marks, or both."""

    def __init__(self, place: Place = "apart", marks: tuple[str, str] = ("", ""), *, begun: bool = False) -> None:
        """Prepare one answer. `begun` says that the prompt has the first mark already."""
        self._place = place
        self._begin, self._end = marks
        self._open = place == "content" and begun  # a mark was written, and the other one was not

    def placed(self, event: Event) -> list[Event]:
        """What the client sees of an event."""
        if self._place == "apart":
            return [event]
        if not isinstance(event, Reasoning):
            close: list[Event] = [Content(self._end)] if self._open else []
            self._open = False
            return [*close, event]
        text = event.text if self._open else self._begin + event.text
        self._open = True
        return [event, Content(text)] if self._place == "both" else [Content(text)]
