"""Which control tokens an answer must show."""

from llamaserver.toolformat.form import Format, Mode
from llamaserver.toolformat.shown import shown_tokens

from tests.support.engine.vocab import ListVocab

PIECES = [b"</s>", b"<think>", b"</think>", b"\n", b"[CALL]", b"<|channel|>", b"a"]
VOCAB = ListVocab(PIECES, eog=[0], special=[1, 2, 4, 5])


def test_control_tokens_of_the_marks_are_shown() -> None:
    form = Format(Mode.JSON, think=("<think>\n", "</think>"), call=("[CALL]a", "</s>"))
    assert form.marks == ("<think>\n", "</think>", "[CALL]a", "</s>")
    assert shown_tokens(form.marks, VOCAB) == {1, 2, 4}


def test_a_mode_has_marks_of_its_own() -> None:
    assert shown_tokens(Format(Mode.HARMONY).marks, VOCAB) == {5}
