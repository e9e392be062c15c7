"""Where thoughts go."""

import pytest
from llamaserver.api.thoughts import Place, Thoughts
from llamaserver.toolformat.events import Call, Content, Event, Reasoning

MARKS = ("<t>", "</t>")
EVENTS: list[Event] = [Reasoning("a"), Reasoning("b"), Content("c"), Content("d")]
BOTH = [Reasoning("a"), Content("<t>a"), Reasoning("b"), Content("b"), Content("</t>"), Content("c"), Content("d")]
INSIDE = [Content("<t>a"), Content("b"), Content("</t>"), Content("c"), Content("d")]


@pytest.mark.parametrize(("place", "seen"), [("apart", EVENTS), ("both", BOTH), ("content", INSIDE)])
def test_thoughts_and_content(place: Place, seen: list[Event]) -> None:
    one = Thoughts(place, MARKS)
    assert [placed for event in EVENTS for placed in one.placed(event)] == seen


def test_a_mark_of_the_prompt_is_not_repeated_in_the_content() -> None:
    one = Thoughts("content", MARKS, begun=True)
    assert one.placed(Reasoning("a")) == [Content("a")]
    assert one.placed(Call("f")) == [Content("</t>"), Call("f")]
    assert Thoughts("both", MARKS, begun=True).placed(Reasoning("a")) == [Reasoning("a"), Content("<t>a")]
