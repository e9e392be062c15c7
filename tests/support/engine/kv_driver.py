"""The toy engine with a KV store under it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llamaserver.engine.store_client import StoreClient
from llamaserver.kvstore.store import KVStore

from tests.support.engine.driver import Driver, make, same_as_alone
from tests.support.engine.kv import opened
from tests.support.polling import until


@contextmanager
def engine(
    folder: Path | None, *, unified: bool = False, shape: dict[str, Any] | None = None, **options: Any
) -> Iterator[Driver]:
    """A driver with a store. `options` that the store does not know are the driver's."""
    known = ("mode", "max_bytes", "ttl", "min_tokens", "ram_bytes")
    ours = {name: options.pop(name) for name in known if name in options}
    with opened(folder, **ours, **(shape or {})) as store:
        options = {"n_slots": 2, "slot_ctx": 256, "n_ctx": 512 if unified else 0, **options}
        yield make(unified=unified, store=store, **options)


def client_of(driver: Driver) -> StoreClient:
    assert isinstance(driver.core.store_client, StoreClient)
    return driver.core.store_client


def store_of(driver: Driver) -> KVStore:
    return client_of(driver).store


def quiet(driver: Driver) -> None:
    """Step until nothing is left to save."""
    client = client_of(driver)
    until(lambda: not driver.step() and not client.store.waiting and not client.candidates(), "all is saved")


def evaluated(driver: Driver, prompt: list[int], **fields: Any) -> int:
    before = driver.backend.evaluated
    request = driver.submit(prompt, n_predict=1, **fields)
    driver.run()
    assert not fields.get("media") and same_as_alone(driver, request, prompt)
    return driver.backend.evaluated - before
