"""Fill-in-middle on models that have the tokens for it, and on one that has not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.models import Models
from tests.support.server.client import Client

pytestmark = pytest.mark.model

GREEDY = {"temperature": 0, "n_predict": 8, "ignore_eos": True}
PRE, SUF, MID = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
REP, SEP = "<|repo_name|>", "<|file_sep|>"
SNIPPET = "\n\n--- snippet ---\n\n"
CHUNKS = [
    {"text": "def one():\n    return two\n", "filename": "one.py", "time": 1},
    {"text": "def two():\n    return image\n"},
]
BATCH = 512


@pytest.fixture(scope="module")
def client(models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    with serve(models.fim(), "-c", "2048", "-np", "2", "-b", str(BATCH)) as client:
        yield client


@pytest.fixture(scope="module")
def repository(models: Models, serve: Callable[..., Any]) -> Iterator[Client]:
    options = ("-c", "1024", "-np", "1", "-b", str(BATCH), "--spm-infill")
    with serve(models.fim_of_repositories(), *options) as client:
        yield client


def tokens(client: Client, text: str, *, special: bool = False) -> list[int]:
    found: list[int] = client.post("/tokenize", content=text, parse_special=special)["tokens"]
    return found


def marked(client: Client, *parts: str) -> list[int]:
    """The ids of texts and markers. Texts are tokenized one by one."""
    markers = (PRE, SUF, MID, REP, SEP)
    return [token for part in parts for token in tokens(client, part, special=part in markers)]


def fill(client: Client, prefix: str, suffix: str, **fields: Any) -> Any:
    return client.post("/infill", input_prefix=prefix, input_suffix=suffix, **{"stream": False, **GREEDY, **fields})


def check_prompt(client: Client, answer: Any, prompt: list[int]) -> None:
    """The answer is that to a prompt of these tokens."""
    assert answer["tokens_evaluated"] == len(prompt)
    again = client.complete(prompt, ignore_eos=True)
    assert again["content"] == answer["content"]
    assert again["timings"]["cache_n"] >= len(prompt) - 2


def test_prompt_is_prefix_suffix_middle(client: Client) -> None:
    answer = fill(client, "def one(", " two)", prompt="im", id_slot=0)
    check_prompt(client, answer, [1, *marked(client, PRE, "def one(", "im", SUF, " two)", MID)])


def test_chunks_of_other_files_come_first(client: Client) -> None:
    answer = fill(client, "def a(", "b", input_extra=CHUNKS)
    extra = marked(client, SNIPPET, CHUNKS[0]["text"], SNIPPET, CHUNKS[1]["text"])  # type: ignore[arg-type]
    check_prompt(client, answer, [*extra, 1, *marked(client, PRE, "def a(", SUF, "b", MID)])


def test_a_repository_has_markers_of_its_own_and_the_suffix_can_come_first(repository: Client) -> None:
    answer = fill(repository, "def a(", "b", input_extra=CHUNKS)
    files = [SEP, "one.py\n", CHUNKS[0]["text"], SEP, "tmp\n", CHUNKS[1]["text"], SEP, "filename\n"]
    extra = marked(repository, REP, "myproject\n", *files)  # type: ignore[arg-type]
    check_prompt(repository, answer, [*extra, 1, *marked(repository, SUF, "b", PRE, "def a(", MID)])


def test_what_is_near_the_gap_is_kept(client: Client) -> None:
    prefix, suffix, middle = "ab" * 300, "cd" * 200, "xyz"
    answer = fill(client, prefix, suffix, prompt=middle)
    before, after = tokens(client, prefix), tokens(client, suffix)
    assert len(before) > BATCH * 3 // 4
    kept = [*before[-(BATCH * 3 // 4) :], *tokens(client, middle)]
    after = after[: BATCH // 4 - 2 - len(tokens(client, middle))]
    check_prompt(client, answer, [1, *marked(client, PRE), *kept, *marked(client, SUF), *after, *marked(client, MID)])


def test_the_last_chunks_fill_the_slot(client: Client) -> None:
    chunks = [{"text": f"{number} " * 100} for number in range(9)]
    extra = marked(client, *(text for chunk in chunks for text in (SNIPPET, chunk["text"])))
    most = 1024 - BATCH + 2  # llama-server adds twice the n_predict of the command line, which is -1
    check_prompt(
        client,
        fill(client, "a", "b", input_extra=chunks),
        [*extra[-most:], 1, *marked(client, PRE, "a", SUF, "b", MID)],
    )


def test_a_prompt_that_would_fill_the_slot_leaves_room_for_an_answer(client: Client) -> None:
    answer = fill(client, "ab" * 600, "cd" * 600, input_extra=[{"text": "x " * 2000}])
    assert answer["tokens_evaluated"] == 1024 * 3 // 4
    assert answer["tokens_predicted"] == 8


def test_chunks_are_reused(client: Client) -> None:
    extra = [{"text": "return the one the two " * 8}]
    warm_up = {"n_predict": 0, "samplers": [], "response_fields": [""], "t_max_prompt_ms": 1, "t_max_predict_ms": 1}
    assert fill(client, "", "", input_extra=extra, prompt="", id_slot=0, cache_prompt=True, **warm_up) == {}
    first = fill(client, "def a(", "b", input_extra=extra, id_slot=0)
    second = fill(client, "def c(", "d", input_extra=extra, id_slot=0)
    chunk = len(marked(client, SNIPPET, *(part["text"] for part in extra)))
    assert min(answer["timings"]["cache_n"] for answer in (first, second)) >= chunk


def test_a_request_of_llama_vim(client: Client) -> None:
    timings = ("prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second")
    timings += ("predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second")
    wanted = ["content", *(f"timings/{name}" for name in timings), "truncated", "tokens_cached"]
    answer = client.post(
        "/infill",
        {
            "id_slot": 0,
            "input_prefix": "def one():\n",
            "input_suffix": "\nprint(one())\n",
            "input_extra": [{"text": "image = 1\n", "time": [1, 2], "filename": "image.py"}],
            "prompt": "    ret",
            "n_predict": 16,
            "stop": [],
            "n_indent": 4,
            "top_k": 40,
            "top_p": 0.90,
            "samplers": ["top_k", "top_p", "infill"],
            "stream": False,
            "cache_prompt": True,
            "t_max_prompt_ms": 500,
            "t_max_predict_ms": 250,
            "response_fields": wanted,
        },
    )
    assert list(answer) == wanted


def test_a_request_of_llama_vscode(client: Client) -> None:
    body = {
        "id_slot": 0,
        "input_prefix": "def one():\n",
        "input_suffix": "\n",
        "input_extra": [{"text": "image = 1\n", "time": 1700000000000, "filename": "image.py"}],
        "prompt": "    return ",
        "n_predict": 16,
        "n_cmpl": 1,
        "top_k": 40,
        "top_p": 0.99,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "n_indent": 4,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 2500,
    }
    answer = client.post("/infill", body)
    assert isinstance(answer["content"], str)
    assert {"has_new_line", "timings", "generation_settings"} <= set(answer)


def test_several_answers_are_a_list(client: Client) -> None:
    several = fill(client, "def a(", "b", n_cmpl=2, temperature=1, seed=1)
    assert [answer["index"] for answer in several] == [0, 1]
    assert several[0]["content"] == fill(client, "def a(", "b", temperature=1, seed=1)["content"]
    body = {"input_prefix": "a", "input_suffix": "b", "n_cmpl": 3}
    assert client.error("/infill", body)["message"] == "Field 'n_cmpl': must be between 1 and 2"


def test_a_suffix_of_openai(client: Client) -> None:
    fields = {"max_tokens": 8, **GREEDY}
    answer = client.post("/v1/completions", prompt="def a(", suffix=" b", **fields)
    assert answer["choices"][0]["text"] == fill(client, "def a(", " b", repeat_penalty=1.0)["content"]
    prompt = [1, *marked(client, PRE, "def a(", SUF, " b", MID)]
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert client.error("/v1/completions", {"prompt": [1, 2], "suffix": "b"})["param"] == "prompt"


def test_streams_as_the_document_says(client: Client) -> None:
    plain = fill(client, "def a(", ") b")
    with client.http.stream("POST", "/infill", json={"input_prefix": "def a(", "input_suffix": ") b", **GREEDY}) as got:
        assert got.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in got.iter_lines() if line.startswith("data: ")]
    assert len(lines) > 1
    events = client.events("/infill", input_prefix="def a(", input_suffix=") b", **GREEDY)
    assert "".join(event["content"] for event in events) == plain["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_both_sides_decide(client: Client) -> None:
    sides = [("hello", "world"), ("world", "hello"), ("hello", ""), ("", "world")]
    assert len({fill(client, prefix, suffix)["content"] for prefix, suffix in sides}) == 4


def test_markers_in_the_text_are_text(client: Client) -> None:
    assert fill(client, MID, "")["tokens_evaluated"] == 4 + len(tokens(client, MID))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input_prefix": None}, '"input_prefix" is required'),
        ({"input_suffix": None}, '"input_suffix" is required'),
        ({"input_prefix": ["x"]}, "must be a string"),
        ({"prompt": 5}, '"prompt" must be a string'),
        ({"input_extra": {}}, '"input_extra" must be an array of {"filename": string, "text": string}'),
        ({"input_extra": ["x"]}, 'must contain a "text" field with a string value'),
        ({"input_extra": [{"text": "x", "filename": 5}]}, '"filename" field must be a string'),
    ],
)
def test_wrong_fields(client: Client, fields: dict[str, Any], words: str) -> None:
    error = client.error("/infill", {"input_prefix": "a", "input_suffix": "b", **fields})
    assert words in error["message"]
    assert error["param"] in fields


def test_model_without_the_tokens_says_so(models: Models, serve: Callable[..., Any]) -> None:
    with serve(models.llama()) as plain:
        for path, body in (
            ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
            ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ):
            error = plain.error(path, body, 501)
            assert error["message"].startswith("Infill is not supported by this model: prefix token is missing.")
