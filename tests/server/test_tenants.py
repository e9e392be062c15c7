"""What API keys may see and change of each other, over a backend without weights."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamaserver.config import Config

from .test_api_without_weights import GREEDY, SETTINGS, Api, serving

PIN = "ab cd ef 83914277"
KEYS = "secret-a name=alice\nsecret-m name=mallory\nsecret-r name=root role=admin\n"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    keys, folder = tmp_path / "keys", tmp_path / "slots"
    keys.write_text(KEYS)
    folder.mkdir()
    return Config(alias="toy", api_key_file=str(keys), slot_save_path=str(folder))


@pytest.fixture
async def api(config: Config) -> AsyncIterator[Api]:
    async with serving(config, replace(SETTINGS, lora_scales=(1.0,)), n_lora=1) as made:
        yield made


async def ask(api: Api, key: str, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    response = await api.clients.request(method, path, json=body, headers=headers)
    assert response.status == status, await response.text()
    return await response.json()


def saved_files(config: Config) -> list[str]:
    return [path.name for path in Path(config.slot_save_path).iterdir()]


async def complete(api: Api, key: str, prompt: str = PIN, **fields: Any) -> Any:
    return await ask(api, key, "POST", "/completion", {"prompt": prompt, "stop": ["STOP-83914277"], **GREEDY, **fields})


@pytest.mark.parametrize("path", ["/slots", "/health?include_slots"])
async def test_slots_show_requests_to_their_own_key_and_to_admins(api: Api, path: str) -> None:
    await complete(api, "secret-a", id_slot=1)
    for key, seen in {"secret-a": True, "secret-r": True, "secret-m": False}.items():
        answer = await ask(api, key, "GET", path)
        slots = answer if isinstance(answer, list) else answer["slots"]
        assert ("83914277" in json.dumps(slots)) == seen, key
        assert (slots[1]["n_past"] > 0) == seen
        assert slots[1]["state"] == 0
        assert set(slots[0]) == set(slots[1])


@pytest.mark.parametrize("key", ["secret-a", "secret-r"])
async def test_the_state_of_a_request_with_a_salt_is_not_saved(api: Api, config: Config, key: str) -> None:
    """A restored state is in the cache domain without the salt."""
    await complete(api, key, id_slot=1, cache_salt="x")
    body = {"filename": "state"}
    error = (await ask(api, key, "POST", "/slots/1?action=save", body, 400))["error"]
    assert "cache_salt" in error["message"]
    await complete(api, key, id_slot=1)
    await ask(api, key, "POST", "/slots/1?action=save", body)


async def test_a_server_without_keys_shows_all_slots_to_all() -> None:
    async with serving() as api:
        await complete(api, "")
        assert "83914277" in json.dumps(await ask(api, "", "GET", "/slots"))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/lora-adapters", [{"id": 0, "scale": 0.5}]),
        ("GET", "/kv-store", None),
        ("DELETE", "/kv-store", None),
        ("POST", "/completion", {"prompt": "ab", "system_prompt": "You are mallory's.", **GREEDY}),
    ],
    ids=str,
)
async def test_only_admins_change_what_all_keys_use(api: Api, method: str, path: str, body: Any) -> None:
    for key in ("secret-a", "secret-m"):
        error = (await ask(api, key, method, path, body, 403))["error"]
        assert error["type"] == "permission_error"
        assert "role admin" in error["message"]
    await ask(api, "secret-r", method, path, body, 501 if path == "/kv-store" else 200)


async def test_a_system_prompt_of_another_key_is_not_in_later_prompts(api: Api) -> None:
    before = await complete(api, "secret-a", cache_prompt=False)
    body = {"prompt": "x", "system_prompt": {"prompt": "cd ef gh " * 9}, **GREEDY}
    await ask(api, "secret-m", "POST", "/completion", body, 403)
    after = await complete(api, "secret-a", cache_prompt=False)
    assert after["tokens_evaluated"] == before["tokens_evaluated"]


@pytest.mark.parametrize("options", [{}, {"api_keys": ("only",)}], ids=["no key", "an admin"])
async def test_no_request_may_set_the_system_prompt_when_the_option_says_so(options: Any) -> None:
    key = "only" if options else ""
    body = {"prompt": "ab", "system_prompt": "ef gh", **GREEDY}
    async with serving(Config(request_system_prompt=False, **options)) as api:
        error = (await ask(api, key, "POST", "/completion", body, 403))["error"]
        assert error["param"] == "system_prompt"
        assert "--no-request-system-prompt" in error["message"]
        await ask(api, key, "POST", "/completion", {**body, "system_prompt": None})
    async with serving(Config(**options)) as api:
        await ask(api, key, "POST", "/completion", body)


async def test_the_slots_and_files_of_others_stay_theirs(api: Api, config: Config) -> None:
    await complete(api, "secret-a", id_slot=0)
    for action in ("save", "restore", "erase"):
        error = (await ask(api, "secret-m", "POST", f"/slots/0?action={action}", {"filename": "mine"}, 403))["error"]
        assert "another API key" in error["message"]
    saved = await ask(api, "secret-a", "POST", "/slots/0?action=save", {"filename": "mine"})
    assert saved["n_saved"] > 0
    assert saved_files(config) == ["user-name-alice"]

    await ask(api, "secret-m", "POST", "/slots/1?action=restore", {"filename": "mine"}, 400)
    await ask(api, "secret-r", "POST", "/slots/1?action=restore", {"filename": "mine"}, 400)
    await complete(api, "secret-m", "gh ij kl", id_slot=1)
    await ask(api, "secret-m", "POST", "/slots/1?action=save", {"filename": "mine"})
    await ask(api, "secret-m", "POST", "/slots/0?action=restore", {"filename": "mine"}, 403)
    await ask(api, "secret-r", "POST", "/slots/1?action=erase", {})
    restored = await ask(api, "secret-a", "POST", "/slots/1?action=restore", {"filename": "mine"})
    assert restored["n_restored"] == saved["n_saved"]
    await ask(api, "secret-m", "POST", "/slots/1?action=save", {"filename": "stolen"}, 403)
    await ask(api, "secret-r", "POST", "/slots/1?action=save", {"filename": "admins"})
    assert "admins" in saved_files(config)
