"""Images in prompts, over three kinds of projector: fixed size, sliced, and M-RoPE."""

import base64
import io
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from tests.support.images import base64_of, blank, data_url, encoded, png
from tests.support.models import Models
from tests.support.server.client import Client

pytestmark = pytest.mark.model

CAT, DOG = png(1), png(2)


@pytest.fixture(scope="module", params=["llama", "idefics3", "qwen2vl"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(kind: str, models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    """A server with images for each kind."""
    with serve(getattr(models, kind)(), "--mmproj", models.projector_of(kind), "-c", "2048", "-np", "2") as client:
        yield client


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """What every prompt of a test begins with, so that tests do not meet in the cache."""
    return f"{request.node.name} "


@pytest.fixture
def look(client: Client, prefix: str) -> Callable[..., Any]:
    """Complete a prompt with images [img-10], [img-11] ..."""

    def ask(prompt: str, *images: bytes, **fields: Any) -> Any:
        data = [{"data": base64_of(image), "id": 10 + i} for i, image in enumerate(images)]
        return client.complete(prefix + prompt, image_data=data, **fields)

    return ask


def chat(*parts: str | bytes) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def test_picture_decides_the_answer(client: Client, look: Callable[..., Any], prefix: str) -> None:
    one = look("see [img-10] what?", CAT)
    other = look("see [img-10] what?", DOG, cache_prompt=False)
    none = client.complete(prefix + "see  what?")
    assert len({one["content"], other["content"], none["content"]}) == 3
    assert one["tokens_evaluated"] > none["tokens_evaluated"]


def test_same_text_and_picture_is_a_cache_hit(look: Callable[..., Any]) -> None:
    first = look("see [img-10] what?", CAT)
    again = look("see [img-10] what?", CAT)
    assert again["content"] == first["content"]
    assert again["timings"]["prompt_n"] <= 2
    assert again["tokens_cached"] >= first["tokens_evaluated"] - 2


def test_same_text_with_another_picture_is_a_miss(client: Client, look: Callable[..., Any], prefix: str) -> None:
    look("see [img-10] what?", CAT, id_slot=0)
    other = look("see [img-10] what?", DOG, id_slot=0)
    text = client.post("/tokenize", content=prefix + "see ")["tokens"]
    assert 0 < other["tokens_cached"] <= len(text) + 20  # and what marks the begin of an image
    alone = look("see [img-10] what?", DOG, cache_prompt=False)
    assert other["content"] == alone["content"]


def test_conversation_about_a_picture_goes_on(look: Callable[..., Any]) -> None:
    first = look("see [img-10] what?", CAT)
    more = "see [img-10] what?" + first["content"] + " and then?"
    alone = look(more, CAT, cache_prompt=False)
    reused = look(more, CAT)
    assert reused["content"] == alone["content"]
    assert reused["tokens_cached"] >= first["tokens_evaluated"] - 2


def test_several_pictures(look: Callable[..., Any]) -> None:
    both = look("[img-10] or [img-11]?", CAT, DOG)
    swapped = look("[img-11] or [img-10]?", CAT, DOG, cache_prompt=False)
    second = look("[img-10] or [img-11]?", CAT, CAT)
    third = look("[img-10] or [img-10]?", CAT, cache_prompt=False)
    assert both["content"] != swapped["content"]
    assert second["content"] == third["content"] != both["content"]
    assert both["tokens_evaluated"] // 2 <= second["tokens_cached"] < both["tokens_evaluated"] - 3


def test_prompt_may_end_or_begin_with_a_picture(client: Client, look: Callable[..., Any]) -> None:
    alone = look("see [img-10]", CAT, cache_prompt=False)
    other = look("see [img-10]", DOG, cache_prompt=False)
    cached = [look("see [img-10]", CAT) for _ in range(2)]
    assert [answer["content"] for answer in cached] == [alone["content"]] * 2
    assert other["content"] != alone["content"]
    data = [{"data": base64_of(CAT), "id": 1}]
    assert client.complete("[img-1]", image_data=data)["tokens_predicted"] >= 8


def test_id_is_the_place_in_the_array_when_it_is_not_given(
    client: Client, look: Callable[..., Any], prefix: str
) -> None:
    with_ids = look("[img-10] or [img-11]?", CAT, DOG)
    data = [{"data": base64_of(CAT)}, {"data": base64_of(DOG)}]
    prompt = prefix + "[img-0] or [img-1]?"
    assert client.complete(prompt, image_data=data)["content"] == with_ids["content"]


def test_text_that_looks_like_the_marker_stays_text(look: Callable[..., Any]) -> None:
    marked = look("<__media__> see [img-10]?", CAT)
    plain = look(" see [img-10]?", CAT)
    assert marked["tokens_evaluated"] > plain["tokens_evaluated"]


def test_formats_and_sizes(look: Callable[..., Any]) -> None:
    picture = Image.open(io.BytesIO(png(3, 90, 30)))
    for kind in ("JPEG", "GIF", "BMP", "WEBP"):
        data = encoded(picture, kind)
        assert look(f"{kind} [img-10] what?", data, ignore_eos=True)["tokens_predicted"] >= 8
    for mode in ("L", "RGBA", "1", "I;16"):
        assert look(f"{mode} [img-10] what?", blank(33, 20, mode), ignore_eos=True)["tokens_predicted"] >= 8


def test_chat(client: Client, prefix: str) -> None:
    def ask(picture: bytes) -> Any:
        return client.post(
            "/v1/chat/completions",
            messages=chat(prefix, picture, " what?"),
            temperature=0,
            max_tokens=8,
        )

    first, again, other = ask(CAT), ask(CAT), ask(DOG)
    assert first["choices"][0]["message"] == again["choices"][0]["message"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= again["usage"]["prompt_tokens"] - 2
    assert other["choices"][0]["message"] != first["choices"][0]["message"]


def test_chat_streams(client: Client) -> None:
    events = client.events("/v1/chat/completions", messages=chat("what?", CAT), max_tokens=4, temperature=0)
    assert events[-1] == "[DONE]"


def test_anthropic_messages_and_results_with_pictures(client: Client, prefix: str) -> None:
    def block(image: bytes) -> dict[str, Any]:
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64_of(image)}}

    def ask(asked: bytes, found: bytes) -> Any:
        call = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
        result = {
            "type": "tool_result",
            "tool_use_id": "c1",
            "content": [{"type": "text", "text": "seen"}, block(found)],
        }
        messages = [
            {"role": "user", "content": [{"type": "text", "text": prefix}, block(asked)]},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ]
        counted = client.post("/v1/messages/count_tokens", messages=messages)["input_tokens"]
        usage = client.post("/v1/messages", messages=messages, max_tokens=1)["usage"]
        assert counted == usage["input_tokens"] + usage["cache_read_input_tokens"]
        return usage

    ask(CAT, DOG)
    assert ask(CAT, DOG)["input_tokens"] <= 2
    assert 2 < ask(CAT, CAT)["input_tokens"] < ask(DOG, DOG)["input_tokens"]


LONG = png(7, 60, 60)
FORMS = {
    "line ends": base64.encodebytes(LONG).decode(),
    "line ends of Windows": base64.encodebytes(LONG).decode().replace("\n", "\r\n"),
    "no padding": base64_of(LONG).rstrip("="),
    "alphabet for URLs": base64.urlsafe_b64encode(LONG).decode(),
    "percent-encoded": quote(base64_of(LONG), safe=""),
    "spaces around": f"  {base64_of(LONG)}\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["data:image/png;base64,", "DATA:image/PNG;BASE64,", " data:;base64,"])
def test_base64_as_encoders_write_it(client: Client, form: str, scheme: str) -> None:
    def ask(data: str) -> Any:
        return client.complete("see [img-1] what?", image_data=[{"data": data, "id": 1}], n_predict=1, id_slot=0)

    def chat_with(url: str, *, plain: bool) -> Any:
        content = [{"type": "image_url", "image_url": url if plain else {"url": url}}]
        messages = [{"role": "user", "content": content}]
        return client.post("/v1/chat/completions", messages=messages, max_tokens=1, temperature=0, id_slot=1)

    first, plain = ask(base64_of(LONG)), chat_with(data_url(LONG), plain=False)
    for data in (FORMS[form], scheme + FORMS[form]):
        answer = ask(data)
        assert answer["content"] == first["content"]
        assert answer["tokens_cached"] >= answer["tokens_evaluated"] - 2, "the same picture"
    for as_text in (True, False):
        answer = chat_with(scheme + FORMS[form], plain=as_text)
        assert answer["choices"][0]["message"] == plain["choices"][0]["message"]
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= answer["usage"]["prompt_tokens"] - 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("$$$", "base64"),
        (base64_of(b"this is no picture"), "not one of"),
        (base64_of(b""), "not one of"),
        (base64_of(CAT[:-60]), "image 1: damaged"),
        (base64_of(CAT[:30]), "image 1"),
        (base64_of(blank(9000, 9000, "L")), "81000000 pixels"),
        (7, "must be a string"),
    ],
)
def test_bad_picture_is_refused(client: Client, data: Any, says: str) -> None:
    error = client.error("/completion", {"prompt": "a [img-1] b", "image_data": [{"data": data, "id": 1}]})
    assert says in error["message"]
    assert error["param"] in ("image_data", "image_data.0", "data")


def noise(width: int, height: int) -> str:
    return base64_of(png(3, width, height))


def test_an_image_has_a_bound_and_so_have_all_of_a_request(models: Models, serve: Callable[..., Any]) -> None:
    options = ("--mmproj", models.projector_of("llama"), "-c", "2048", "--max-image-pixels", "1000")
    with serve(models.llama(), *options) as client:

        def ask(prompt: Any, *images: str, status: int) -> Any:
            data = [{"data": image, "id": i} for i, image in enumerate(images)]
            return client.post("/completion", {"prompt": prompt, "image_data": data, "n_predict": 1}, status)

        ask("[img-0]", noise(40, 25), status=200)
        assert "1025 pixels, an image may have 1000" in str(ask("[img-0]", noise(41, 25), status=400))
        five = [noise(20, 40 + i) for i in range(5)]
        ask("[img-0][img-1][img-2][img-3]", *five, status=200)
        assert "so far" in str(ask("[img-0][img-1][img-2][img-3][img-4]", *five, status=400))
        assert "so far" in str(ask("[img-0]" * 6, *five, status=400))
        assert "so far" in str(ask([f"[img-{i}]" for i in range(5)], *five, status=400))
        ask(["[img-0]"] * 6, *five, status=200)  # one image, decoded once


def test_a_small_file_with_many_pixels_costs_nothing(client: Client) -> None:
    bomb = blank(8000, 8000, "1")
    assert len(bomb) < 10_000
    began = time.monotonic()
    error = client.error("/completion", {"prompt": "[img-0]" * 50, "image_data": [{"data": base64_of(bomb)}]})
    assert "64000000 pixels" in error["message"]
    assert time.monotonic() - began < 10  # it would take minutes


def test_unknown_id_is_refused(client: Client) -> None:
    body = {"prompt": "a [img-2] b", "image_data": [{"data": base64_of(CAT), "id": 1}]}
    assert "[img-2]" in client.error("/completion", body)["message"]


@pytest.mark.parametrize("url", [data_url(b"no picture"), "data:image/png;base64,$", "http://127.0.0.1/cat.png", 7])
def test_bad_picture_in_chat_is_refused(client: Client, url: Any) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    error = client.error("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]})
    assert error["param"].startswith("messages")


def test_picture_that_does_not_fit_is_refused(client: Client) -> None:
    prompt = " ".join(["[img-0]"] * 120)
    error = client.error("/completion", {"prompt": prompt, "image_data": [{"data": base64_of(CAT)}]})
    assert error["type"] == "exceed_context_size_error"


@pytest.mark.parametrize("kind", ["qwen2vl"], indirect=True, scope="module")
def test_cells_are_counted_where_they_are_more_than_positions(client: Client, look: Callable[..., Any]) -> None:
    """M-RoPE: a picture of 100 cells takes 10 positions."""
    large = png(5, 160, 160)
    answer = look("see [img-10] what?", large, n_predict=1200, ignore_eos=True)
    assert answer["truncated"]
    assert 700 < answer["tokens_evaluated"] + answer["tokens_predicted"] < 1024 - 80
    data = [{"data": base64_of(large)}]
    error = client.error("/completion", {"prompt": "[img-0] " * 12, "image_data": data})
    assert error["type"] == "exceed_context_size_error"
    assert client.complete("[img-0] " * 8, image_data=data)["tokens_evaluated"] < 200


def test_system_prompt_stands_before_a_picture(client: Client) -> None:
    data = [{"data": base64_of(CAT), "id": 1}]
    body = {"prompt": "see [img-1] what?", "image_data": data, "n_predict": 8, "temperature": 0}
    plain = client.post("/completion", body)
    with_system = client.post("/completion", {**body, "system_prompt": {"prompt": "the one the world"}})
    again = client.post("/completion", body)
    client.post("/completion", {"prompt": "x", "n_predict": 0, "system_prompt": {"prompt": ""}})
    assert with_system["content"] == again["content"] != plain["content"]
    assert again["tokens_evaluated"] > plain["tokens_evaluated"]
    assert client.post("/completion", body)["content"] == plain["content"]


def test_extreme_shapes_are_answered_or_refused(client: Client) -> None:
    for width, height in ((1, 3000), (3000, 1), (1, 1), (2000, 10)):
        body = {
            "prompt": "a [img-0] b",
            "n_predict": 2,
            "image_data": [{"data": base64_of(blank(width, height))}],
        }
        answer = client.http.post("/completion", json=body)
        assert answer.status_code in (200, 400), answer.text


def test_slot_with_a_picture_shifts_or_stops_at_its_end(look: Callable[..., Any]) -> None:
    answer = look("see [img-10] what?", CAT, n_predict=1200, ignore_eos=True)
    assert answer["stopped_limit"]
    assert answer["truncated"]


def test_embedding_refuses_pictures_and_says_why(client: Client) -> None:
    error = client.error("/embedding", {"content": "x [img-0]", "image_data": [{"data": base64_of(CAT)}]}, 501)
    assert "embed" in error["message"]


def test_props_tell_of_vision(client: Client) -> None:
    assert client.get("/props")["modalities"]["vision"] is True
