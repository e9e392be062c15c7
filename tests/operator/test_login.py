"""The logins of the watch. A token that the API server refuses is not tried again at once, forever."""

import aiohttp
import pytest
from kubernetes.aio.client import Configuration
from llamaserver_operator import handlers
from llamaserver_operator.handlers import Login

from tests.support.virtual_time import now, run


@pytest.mark.parametrize(("tokens", "waits"), [(["a", "a", "a"], 2), (["a", "b", "a"], 0), ([None, None], 1)])
def test_a_login_with_the_same_token_waits(
    monkeypatch: pytest.MonkeyPatch, tokens: list[str | None], waits: int
) -> None:
    given = iter(tokens)

    async def credentials() -> Configuration:
        token = next(given)
        keys = {"BearerToken": f"Bearer {token}"} if token else {}
        return Configuration(host="http://127.0.0.1:1", api_key=keys)

    monkeypatch.setattr(handlers, "credentials", credentials)

    async def main() -> None:
        sessions: list[aiohttp.ClientSession] = []
        login, began = Login(sessions), now()
        for _ in tokens:
            await login.login()
            (session,) = sessions
        assert now() - began == waits
        expected = f"Bearer {tokens[-1]}" if tokens[-1] else None
        assert session.headers.get("Authorization") == expected
        await session.close()

    run(main())
