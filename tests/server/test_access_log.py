"""The access log, request ids and the metrics of API keys: who asked, and never what."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from llamaserver.api import failed_keys
from llamaserver.api.failed_keys import FailedKeys
from llamaserver.api.traffic import OTHERS, Record, Traffic
from llamaserver.config import Config

from .test_api_without_weights import GREEDY, Api, serving
from .test_tenants import ask

MARK = "83914277"
KEYS = {"alice": f"sk-alice-{MARK}", "root": f"sk-root-{MARK}"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(failed_keys, "_DELAY", 0.01)
    file = tmp_path / "keys"
    file.write_text(f"{KEYS['alice']} name=alice\n{KEYS['root']} name=root role=admin\n")
    options: dict[str, Any] = {"api_key_file": str(file), "api_keys": (f"sk-{MARK}",), "metrics": True}
    async with serving(Config(alias="toy", slot_save_path=str(tmp_path), verbose=True, **options)) as made:
        yield made


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.name == "llamaserver.access"]  # type: ignore[attr-defined]


async def test_a_line_names_the_key_the_peer_the_id_the_tokens_and_the_times(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers = {"Authorization": f"Bearer {KEYS['alice']}", "X-Request-Id": "abc-1"}
    response = await api.clients.post("/completion", json={"prompt": "ab cd", **GREEDY}, headers=headers)
    body = await response.json()
    assert response.headers["X-Request-Id"] == "abc-1"
    line = lines(caplog)[-1]
    assert line.pop("ms") >= line.pop("first_token_ms") > 0
    assert line == {
        "method": "POST",
        "path": "/completion",
        "status": 200,
        "key": "alice",
        "peer": "127.0.0.1",
        "request_id": "abc-1",
        "prompt_tokens": body["tokens_evaluated"],
        "evaluated_tokens": body["timings"]["prompt_n"],
        "generated_tokens": body["tokens_predicted"],
    }
    assert "key=alice peer=127.0.0.1 request_id=abc-1" in caplog.text


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": "a.b_c:d/e+f=g@h-i~1"}, r"a\.b_c:d/e\+f=g@h-i~1"),
        ({"X-Request-Id": "x" * 129}, "[0-9a-f]{32}"),
        ({"X-Request-Id": 'a"b'}, "[0-9a-f]{32}"),
        ({"X-Request-Id": "a b"}, "[0-9a-f]{32}"),
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, TRACE),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, "(?!0{32})[0-9a-f]{32}"),
        ({"traceparent": f"00-{TRACE}-b7"}, f"(?!{TRACE})[0-9a-f]{{32}}"),
        ({"X-Request-Id": "mine", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, "mine"),
        ({}, "[0-9a-f]{32}"),
    ],
    ids=str,
)
async def test_the_id_of_a_request_comes_back(api: Api, headers: dict[str, str], expected: str) -> None:
    for path in ("/health", "/props", "/nothing"):
        response = await api.clients.get(path, headers=headers)
        assert re.fullmatch(expected, response.headers["X-Request-Id"]), path


async def test_the_id_of_a_stream_comes_back(api: Api) -> None:
    headers = {"Authorization": f"Bearer {KEYS['alice']}", "X-Request-Id": "mine"}
    body = {"prompt": "ab", "stream": True, **GREEDY}
    response = await api.clients.post("/completion", json=body, headers=headers)
    assert response.headers["X-Request-Id"] == "mine"


async def test_neither_prompts_nor_keys_are_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    bad: list[Any] = [{"stop": MARK}, {"grammar": f"root ::= ({MARK}"}, {"temperature": MARK}, {"logit_bias": MARK}]
    prompt = {"prompt": f"ab {MARK}", **GREEDY}
    chat = {"messages": [{"role": "user", "content": MARK}], "max_tokens": 4}
    for key in ("", f"wrong-{MARK}", *KEYS.values(), f"sk-{MARK}"):
        headers = {"Authorization": f"Bearer {key}", "X-Api-Key": key} if key else {}
        post = api.clients.post
        for fields in ({}, *bad):
            await (await post("/completion", json={**prompt, **fields}, headers=headers)).read()
            await (await post("/v1/chat/completions", json={**chat, **fields}, headers=headers)).read()
        await (await post("/completion", json={**prompt, "stream": True}, headers=headers)).read()
        await (await post("/completion", data=f'{{"prompt": "{MARK}', headers=headers)).read()
        await (await post("/tokenize", json={"content": MARK}, headers=headers)).read()
        await (await post("/slots/0?action=save", json={"filename": "a"}, headers=headers)).read()
        await (await api.clients.get(f"/slots?api_key={MARK}", headers=headers)).read()
        (await post("/completion", json={**prompt, "n_predict": 10**6, "stream": True}, headers=headers)).close()
    for broken in (f"GET /props HTTP/1.1\r\nX-Api-Key: {MARK}\r\n{MARK}\r\n\r\n", f"{MARK}\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.clients.port)
        writer.write(broken.encode())
        await reader.read()
        writer.close()
    assert len(lines(caplog)) > 50
    ours = [record for record in caplog.records if record.name != "aiohttp.access"]  # the test client's own
    assert MARK not in "".join(map(logging.Formatter().format, ours))
    assert MARK not in json.dumps(lines(caplog))


async def test_requests_and_tokens_are_counted_by_key(api: Api) -> None:
    for name, secret in KEYS.items():
        body = {"prompt": "ab cd", **GREEDY, "cache_prompt": False}
        answer = await ask(api, secret, "POST", "/completion", body)
        await ask(api, secret, "POST", "/completion", {"prompt": 3}, 400)
        text = await (await api.management.get("/metrics")).text()
        assert f'llamaserver:http_requests_total{{key="{name}",status="2xx"}} 1.0' in text
        assert f'llamaserver:http_requests_total{{key="{name}",status="4xx"}} 1.0' in text
        assert f'llamaserver:key_generated_tokens_total{{key="{name}"}} {answer["tokens_predicted"]:.1f}' in text
        assert f'llamaserver:key_evaluated_tokens_total{{key="{name}"}} {answer["tokens_evaluated"]:.1f}' in text
    for _ in range(3):
        await ask(api, "wrong", "GET", "/props", status=401)
    text = await (await api.management.get("/metrics")).text()
    assert "llamaserver:unauthorized_total 3.0" in text
    assert 'llamaserver:http_requests_total{key="(none)",status="4xx"} 3.0' in text
    assert MARK not in text


async def test_a_user_sees_the_metrics_of_no_other_key(api: Api) -> None:
    for name, others in {"alice": False, "root": True}.items():
        headers = {"Authorization": f"Bearer {KEYS[name]}"}
        await api.clients.get("/props", headers=headers)
        await api.clients.get("/props", headers={"X-Api-Key": f"sk-{MARK}"})
        text = await (await api.clients.get("/metrics", headers=headers)).text()
        assert f'llamaserver:http_requests_total{{key="{name}",status="2xx"}}' in text
        assert ('{key="#1",status="2xx"}' in text) == others
        assert ("llamacpp:prompt_tokens_total" in text) == others


def test_the_names_in_the_metrics_are_bounded() -> None:
    traffic = Traffic()
    for number in range(1000):
        traffic.add(f"key-{number}", 200, Record("id", prompt=1, evaluated=1))
    assert len(traffic.requests) == 101
    assert traffic.requests[OTHERS, "2xx"] == 900
    assert sum(traffic.evaluated.values()) == 1000


# ---- wrong keys


class Clock:
    now = 0.0
    slept: float = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept += seconds


async def test_an_address_with_many_wrong_keys_waits_for_its_answers() -> None:
    clock = Clock()
    failed = FailedKeys(clock, clock.sleep)
    assert [await failed.slow("10.0.0.1") for _ in range(13)] == [False] * 10 + [True] * 3
    assert clock.slept == 3 * failed_keys._DELAY
    assert not await failed.slow("10.0.0.2")
    clock.now += 3600
    assert not await failed.slow("10.0.0.1")
    found = [await failed.slow(f"2001:db8::{number:x}") for number in range(11)]
    assert found[-1]


async def test_the_table_of_addresses_and_the_waiting_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_keys, "_MOST_WAITING", 2)
    failed = FailedKeys(Clock())
    for number in range(3000):
        await failed.slow(f"10.0.{number // 256}.{number % 256}")
    assert len(failed._tried) == 1024
    for _ in range(10):
        await failed.slow("10.9.9.9")
    tasks = [asyncio.create_task(failed.slow("10.9.9.9")) for _ in range(5)]
    done, waiting = await asyncio.wait(tasks, timeout=0.2)
    assert (len(done), len(waiting)) == (3, 2)
    for task in waiting:
        task.cancel()


async def test_a_slowed_answer_closes_its_connection_and_valid_keys_are_not_slowed(
    api: Api,
) -> None:
    for number in range(12):
        response = await api.clients.get("/props", headers={"X-Api-Key": "wrong"})
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (response.headers.get("Connection") == "close") == (number >= 10)
    await ask(api, KEYS["alice"], "GET", "/props")
