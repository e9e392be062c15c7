"""The benchmarks' arithmetic and the reading of what the load generator received."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench import builds, machine
from tests.bench.client import Exchange, report
from tests.bench.load import Answer
from tests.bench.prompts import WORDS, words
from tests.bench.rounds import Samples, turns
from tests.bench.sides import Shape
from tests.bench.stats import Target, ratios, significant, spread


def test_sides_take_turns_a_b_b_a() -> None:
    assert list(turns(3, ["a", "b"])) == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_ratios_are_taken_within_a_round() -> None:
    samples = Samples()
    for number, side in turns(3, ["ours", "peer"]):
        samples.add(side, {"rate": {"ours": [2.0, 9.0, 4.0], "peer": [1.0, 3.0, 4.0]}[side][number]})
    row = samples.versus_peer("row", "rate", "tokens/s", Target(">=", 1.05))
    assert (row.value.median, row.value.low, row.value.high) == (2.0, 1.0, 3.0)
    assert row.raw == {"ours": 4.0, "peer": 3.0}
    assert row.met


def test_rounds_must_be_complete() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no measurement"):
        spread([])


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (Target(">=", 1.05), 1.05, True),
        (Target(">=", 1.05), 1.049, False),
        (Target("<=", 0.1), 0.1, True),
        (Target("<=", 0.1), 0.101, False),
    ],
)
def test_a_target_includes_its_limit(target: Target, value: float, met: bool) -> None:
    assert target.met(value) is met


@pytest.mark.parametrize(("value", "shown"), [(0.012345, 0.0123), (1.2345, 1.23), (98765.4, 98765.0), (0.0, 0.0)])
def test_figures_are_rounded_to_significant_digits(value: float, shown: float) -> None:
    assert significant(value, 3) == shown


def test_prompts_differ_from_their_first_words_on_and_repeat_exactly() -> None:
    texts = [words(f"round {number}", 900) for number in range(7)]
    assert [len(text.split()) for text in texts] == [900] * 7
    assert len({tuple(text.split()[:4]) for text in texts}) == 7
    assert words("round 0", 900) == texts[0]
    assert len(set(WORDS)) == len(WORDS)


def answer(times: list[float]) -> Answer:
    return Answer(sent=10.0, times=times, tokens=[], text="", ended=times[-1], predicted=len(times), evaluated=1)


def test_times_of_an_answer() -> None:
    one = answer([10.5, 11.0, 11.5])
    assert (one.first, one.whole, one.rate) == (0.5, 1.5, 2.0)


def test_the_longest_gap_counts_waits_that_only_touch_the_interval() -> None:
    stream = answer([0.0, 3.0, 3.1, 3.2, 5.2, 9.2])
    assert stream.longest_gap(2.9, 3.15) == 3.0  # began before
    assert stream.longest_gap(3.15, 4.0) == pytest.approx(2.0)  # ends after
    assert stream.longest_gap(3.05, 3.08) == pytest.approx(0.1)
    assert stream.longest_gap(20.0, 30.0) == 0.0


def exchange(*chunks: tuple[float, bytes]) -> Exchange:
    one = Exchange(1, {})
    one.socket.close()
    one.chunks = list(chunks)
    return one


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_each_event_gets_the_time_at_which_its_last_byte_came() -> None:
    first, second = b'data: {"content":"a","stop":false}\n\n', b'data: {"content":"b","stop":false,"tokens":[7]}\n\n'
    last = b'data: {"content":"","stop":true,"tokens_predicted":2,"tokens_evaluated":5}\n\n'
    split = chunk(second)
    one = exchange(
        (1.0, HEAD + chunk(first)),
        (2.0, split[:9]),
        (3.0, split[9:]),
        (4.0, chunk(b": ping\n\n" + last) + b"0\r\n\r\n"),
    )
    result = report(one)
    assert result["times"] == [1.0, 3.0]
    assert (result["text"], result["tokens"], result["ended"], result["error"]) == ("ab", [7], 4.0, "")
    assert result["final"] == {"tokens_predicted": 2, "tokens_evaluated": 5}


def test_chunks_of_a_chat() -> None:
    parts: list[dict[str, Any]] = [
        {"choices": [{"delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"delta": {"content": "a"}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": {"predicted_n": 2, "prompt_n": 5}},
    ]
    data = [f"data: {json.dumps(part)}\n\n".encode() for part in parts]
    one = exchange((1.0, HEAD + chunk(data[0])), (2.0, chunk(data[1])), (3.0, chunk(data[2] + data[3]) + b"0\r\n\r\n"))
    result = report(one)
    assert (result["times"], result["text"], result["ended"]) == ([2.0, 3.0], "a{}", 3.0)
    assert result["final"] == {"tokens_predicted": 2, "tokens_evaluated": 5}


def test_an_answer_that_was_left_half_way_keeps_what_came() -> None:
    one = exchange((1.0, HEAD + chunk(b'data: {"content":"a","stop":false}\n\n') + b"30\r\nda"))
    one.left = True
    result = report(one)
    assert (result["times"], result["final"], result["ended"]) == ([1.0], None, None)
    assert report(exchange())["error"] == "no answer"


def test_a_refusal_is_reported_with_its_text() -> None:
    body = b'{"error":{"message":"no"}}'
    one = exchange((1.0, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 26\r\n\r\n" + body))
    assert report(one)["status"] == 400
    assert '"no"' in report(one)["error"]


def test_builds_that_differ_are_not_compared() -> None:
    one = builds.Build("libggml-cpu-haswell.so 1a", "CPU : AVX2 = 1")
    assert builds.differences(one, builds.Build("libggml-cpu-haswell.so 1a", "CPU : AVX2 = 1")) == []
    assert len(builds.differences(one, builds.Build("libggml-cpu-haswell.so 2b", "CPU : AVX2 = 0"))) == 2
    assert builds.differences(one, builds.Build("", "CPU : AVX2 = 1")) == ["the CPU module of one side is unknown"]


def test_both_sides_understand_the_same_arguments(tmp_path: Path) -> None:
    from llamaserver.options import parse

    config = parse(list(Shape(tmp_path / "model.gguf", 8, 8192, 2).arguments()), {})
    assert (config.parallel, config.ctx_size, config.threads, config.threads_batch) == (8, 8192, 2, 2)
    assert (config.kv_unified, config.cont_batching, config.cache_ram) == (False, True, 0)


def test_own_cpu_time_is_not_that_of_others(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 20 30 9999 50 1 2 7 40 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    assert machine.busy_seconds(stat) * machine._TICK == pytest.approx(160)
