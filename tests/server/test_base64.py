"""Base64 of pictures: every form that encoders write, and nothing else."""

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamaserver.api.prompt import decode_base64, is_data_url
from llamaserver.errors import InvalidRequest


@given(st.binary(max_size=200), st.data())
def test_all_forms_at_once(data, draw):
    text = base64.b64encode(data).decode()
    if draw.draw(st.booleans(), "for URLs"):
        text = base64.urlsafe_b64encode(data).decode()
    if draw.draw(st.booleans(), "no padding"):
        text = text.rstrip("=")
    if draw.draw(st.booleans(), "percent"):
        for letter in "+/=-_":
            text = text.replace(
                letter, draw.draw(st.sampled_from([letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}"]))
            )
    at = draw.draw(st.integers(1, 80), "line length")
    text = (
        draw.draw(st.sampled_from(["\n", "\r\n", " ", "\t", "%0A", "%0d%0a"])).join(
            text[i : i + at] for i in range(0, len(text), at)
        )
        if "%" not in text
        else text
    )
    scheme = draw.draw(st.sampled_from(["", "data:image/png;base64,", "Data:;base64,", "data:a/b;charset=x,y;base64,"]))
    assert decode_base64(scheme + text, "f") == data


@pytest.mark.parametrize(
    "text", ["$", "a", "AAAAA", "A=AA", "AA==AA==", "äAAA", "%zz", "%", "AA\0A", "=A", "\ud83dAAA"]
)
def test_invalid_base64_is_refused(text):
    for scheme in ("", "data:;base64,"):
        with pytest.raises(InvalidRequest, match=r"'image_data\.3': not valid base64") as caught:
            decode_base64(scheme + text, "image_data.3")
        assert caught.value.field == "image_data.3"


def test_nothing_is_nothing():
    for text in ("", "=", "==", "\n", "data:,", "data:image/png;base64,"):
        assert decode_base64(text, "f") == b""


def test_data_urls():
    assert all(map(is_data_url, ("data:,", "DATA:x", "Data:image/png", "  data:x", "\ndata:")))
    assert not any(map(is_data_url, ("", "dat", "http://data:", "file:", "x data:", "data")))


def test_a_million_escapes():
    data = random.Random(1).randbytes(1 << 20)
    text = "%2B" * 1_000_000 + base64.b64encode(data).decode()
    assert decode_base64(text, "f").endswith(data)
