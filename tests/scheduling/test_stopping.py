"""Text that may be shown: whole characters, never a part of a stop string, nothing lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llamaserver.scheduling.text_stream import Stops, TextStream

TEXT = st.text(alphabet="ab \néß€😀", max_size=30)
STOPS = st.lists(st.text(alphabet="ab é", min_size=1, max_size=4), max_size=4).map(tuple)


def cuts(draw: st.DataObject, data: bytes) -> list[bytes]:
    """The same bytes in random pieces, empty ones among them."""
    places = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@settings(deadline=None)
@given(st.data(), TEXT)
def test_increments_are_whole_characters_and_add_up(data: st.DataObject, text: str) -> None:
    stream, shown, pushed = TextStream(Stops(())), "", b""
    for piece in cuts(data, text.encode()):
        pushed += piece
        shown += stream.push(piece)
        assert shown == whole_characters(pushed)
        assert stream.mid_character == (shown.encode() != pushed)
    assert shown + stream.finish() == text


@settings(deadline=None)
@given(st.data(), st.binary(max_size=40))
def test_any_bytes_become_what_decoding_them_at_once_gives(data: st.DataObject, raw: bytes) -> None:
    stream = TextStream(Stops(()))
    shown = "".join(stream.push(piece) for piece in cuts(data, raw))
    assert shown + stream.finish() == raw.decode("utf-8", "replace")


def reference(pieces: list[bytes], stops: tuple[str, ...]) -> tuple[str, str]:
    """Text before the first stop string and that string, by looking at everything after each piece."""
    seen = b""
    for piece in pieces:
        seen += piece
        text = whole_characters(seen)
        found = [(text.find(stop), stop) for stop in stops if stop in text]
        if found:
            at, stop = min(found)
            return text[:at], stop
    return seen.decode("utf-8", "replace"), ""


def whole_characters(data: bytes) -> str:
    """The text without a character that has only begun."""
    for end in range(len(data), max(-1, len(data) - 4), -1):
        try:
            return data[:end].decode()
        except UnicodeDecodeError:
            continue
    raise AssertionError("not the beginning of a text")


@settings(deadline=None)
@given(st.data(), TEXT, STOPS)
def test_no_part_of_a_stop_string_is_ever_shown(data: st.DataObject, text: str, stops: tuple[str, ...]) -> None:
    pieces = cuts(data, text.encode())
    expected, word = reference(pieces, stops)
    stream, shown, pushed = TextStream(Stops(stops)), "", b""
    for piece in pieces:
        pushed += piece
        shown += stream.push(piece)
        assert expected.startswith(shown)
        if stream.stopping_word:
            break
        certain = whole_characters(pushed)
        held = next(
            size
            for size in range(len(certain), -1, -1)
            if size == 0 or any(len(stop) > size and stop.startswith(certain[-size:]) for stop in stops)
        )
        assert shown == certain[: len(certain) - held]  # neither more nor less is held back
    assert stream.stopping_word == word
    assert shown + stream.finish() == expected
    assert not any(stop in expected for stop in stops)


def test_a_stop_string_across_token_borders_is_held_back_and_cut() -> None:
    stream = TextStream(Stops(("###", "User:")))
    pushed = [stream.push(piece) for piece in (b"Hello #", b"# world", b"\nUs", b"er", b": more")]
    assert pushed == ["Hello ", "## world", "\n", "", ""]
    assert stream.stopping_word == "User:"
    assert stream.finish() == ""


def test_text_that_only_began_like_a_stop_string_comes_at_the_end() -> None:
    stream = TextStream(Stops(("stop",)))
    assert stream.push(b"one st") == "one "
    assert stream.push(b"o") == ""
    assert stream.finish() == "sto"


@pytest.mark.parametrize("stops", [("b", "abc"), ("abc", "b")])
def test_the_earliest_stop_string_of_a_piece_wins(stops: tuple[str, ...]) -> None:
    stream = TextStream(Stops(stops))
    assert stream.push(b"xabcd") == "x"
    assert stream.stopping_word == "abc"


def test_empty_stop_strings_do_not_count() -> None:
    stream = TextStream(Stops(("", "")))
    assert stream.push(b"text") == "text"
    assert not stream.stopping_word


def test_a_character_that_never_ends_becomes_a_replacement_character() -> None:
    stream = TextStream(Stops(("zzz",)))
    assert stream.push(b"a\xf0\x9f") == "a"
    assert stream.mid_character
    assert stream.finish() == "\ufffd"


def test_many_long_stops_cost_little() -> None:
    """One pass over the text, whatever it holds back: counted in characters compared."""
    stream = TextStream(Stops(tuple("a" * 4000 + chr(0x100 + i) for i in range(200))))
    text = "".join(stream.push(b"a") for _ in range(3000))
    assert text == ""
    assert stream.finish() == "a" * 3000
