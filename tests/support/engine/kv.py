"""KV stores for tests: over the toy's states, opened on a folder, their threads awaited."""

import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from llamaserver.interfaces.backend import ByteArray, StateCodec
from llamaserver.interfaces.tenant import ALL, Scope
from llamaserver.kvstore.blockfile import Format, head_size
from llamaserver.kvstore.blocks import Block, BlockId
from llamaserver.kvstore.identity import Chain
from llamaserver.kvstore.messages import Lookup, Offer, Shape, StoreOptions
from llamaserver.kvstore.store import KVStore

from tests.support.engine.toy import STATE_BYTES, ToyCodec
from tests.support.polling import until

FINGERPRINT = b"toy" + bytes(13)
SECRET = bytes(range(32))


def chain(scope: Scope = ALL, fingerprint: bytes = FINGERPRINT) -> Chain:
    """The identities of a sequence without adapters."""
    return Chain.of(SECRET, fingerprint, (), (), scope)


def file_of(block: Block, fingerprint: bytes = FINGERPRINT, secret: bytes = SECRET) -> bytes:
    """A block's file."""
    return b"".join(bytes(part) for part in Format(fingerprint, secret).encode(block))


def block_in(content: bytes, block: BlockId, fingerprint: bytes = FINGERPRINT, secret: bytes = SECRET) -> Block:
    """The block in a file's bytes. Raises DamagedBlockError."""
    form, begin = Format(fingerprint, secret), head_size(block.count)
    return form.block(form.head(content[:begin], block), np.frombuffer(content[begin:], np.uint8))


def state_of(keys: "array[int]", model: int = 0) -> ByteArray:
    """A state of the toy's size whose bytes tell which keys it was made of, by which model."""
    state = np.zeros((len(keys), STATE_BYTES), np.uint8)
    running = model
    for row, key in enumerate(keys):
        running = (running * 31 + key) % (1 << 32)
        state[row, :8] = np.frombuffer(running.to_bytes(8, "little"), np.uint8)
    return state.reshape(-1)


@contextmanager
def opened(
    folder: Path | None,
    *,
    fingerprint: bytes = FINGERPRINT,
    codec: StateCodec | None = None,
    whole: bool = False,
    window: int = 0,
    adapters: tuple[bytes, ...] = (),
    **options: Any,
) -> Iterator[KVStore]:
    """A started store. At the end its threads have ended."""
    shape = Shape(fingerprint, adapters, None if whole else codec or ToyCodec(), window)
    store = KVStore(StoreOptions(folder=folder, **options), shape)
    store.start(lambda: None)
    try:
        assert store.opened.wait(30)
        yield store
    finally:
        store.stop()
        store.join()
        assert "defect" not in store.stats().discards


def save(
    store: KVStore, keys: "array[int]", scales: tuple[float, ...] = (), model: int = 0, scope: Scope = ALL
) -> None:
    """Save a sequence, and wait until that is done."""
    until(lambda: store.has_room, "room in the queue")
    store.save(keys, scales, state_of(keys, model), scope)
    until(lambda: not store.waiting, "the store has saved")


def find(
    store: KVStore, keys: "array[int]", scales: tuple[float, ...] = (), model: int = 0, **fields: Any
) -> Offer | None:
    """What the store offers. Its state must be that of the keys."""
    lookup = Lookup(keys, scales, **{"media": (), **fields})
    store.find(lookup)
    until(lambda: lookup.done, "the store answers")
    if lookup.offer is not None:
        np.testing.assert_array_equal(lookup.offer.state, state_of(keys[: lookup.offer.length], model))
    return lookup.offer


def found(store: KVStore, keys: "array[int]", scales: tuple[float, ...] = (), **fields: Any) -> int:
    """How many tokens it offers."""
    offer = find(store, keys, scales, **fields)
    return offer.length if offer is not None else 0


def files(folder: Path) -> list[Path]:
    """All block files, of all fingerprints."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".block", ".state"))


def total(folder: Path) -> int:
    """Their bytes."""
    return sum(path.stat().st_size for path in files(folder))


def threads() -> int:
    """Running threads of stores."""
    return sum(thread.name.startswith("kv-") for thread in threading.enumerate())
