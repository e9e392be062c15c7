"""Identities of the parts of a sequence: keyed hashes, chained from block to block. Pure.

A block's identity is a hash of all keys up to its end. So equal prefixes share their blocks, whichever request
saved them. The hash is BLAKE2b in its keyed mode (RFC 7693) with the secret key of the store: an identity tells
nothing about the prompt to those who do not have the key, and they cannot compute one. The blocks of the server's
system prompt serve all domains. From the first block that holds other keys on, the domain is a part of the chain.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from ..interfaces.tenant import ALL, Scope

BLOCK = 64  # keys of a block
_BYTES = 16  # of an identity


def identify(secret: bytes, parent: bytes, keys: "array[int]") -> bytes:
    """The identity of a block after `parent`."""
    return blake2b(parent + keys.tobytes(), digest_size=_BYTES, key=secret, person=b"kv block").digest()


@dataclass(frozen=True, slots=True)
class Chain:
    """The identities of one sequence, from `start` on, which stands for the model and its adapters."""

    secret: bytes
    start: bytes
    scope: Scope = ALL

    @staticmethod
    def of(
        secret: bytes, fingerprint: bytes, adapters: Sequence[bytes], scales: Sequence[float], scope: Scope
    ) -> "Chain":
        """The chain for a model, the adapters in use, and a domain."""
        used = [(adapter.hex(), scale) for adapter, scale in zip(adapters, scales, strict=True) if scale != 0.0]
        model = fingerprint + repr(used).encode()
        return Chain(secret, blake2b(model, digest_size=_BYTES, key=secret, person=b"kv model").digest(), scope)

    def parent(self, link: bytes, at: int) -> bytes:
        """The parent of the block that begins at key `at`. `link` is the identity of the keys before it."""
        if not self.scope.domain or at != self.scope.common // BLOCK * BLOCK:
            return link
        return blake2b(link + self.scope.domain, digest_size=_BYTES, key=self.secret, person=b"kv domain").digest()

    def identity(self, parent: bytes, keys: "array[int]") -> bytes:
        """The identity of a block after `parent`."""
        return identify(self.secret, parent, keys)

    def links(self, keys: "array[int]") -> list[bytes]:
        """`start`, then the identity at the end of every full block of `keys`."""
        found = [self.start]
        for at in range(0, len(keys) - BLOCK + 1, BLOCK):
            found.append(self.identity(self.parent(found[-1], at), keys[at : at + BLOCK]))
        return found

    def identity_at(self, links: Sequence[bytes], keys: "array[int]", count: int) -> bytes:
        """The identity of the first `count` keys. `links` are those of `keys`."""
        full, rest = divmod(count, BLOCK)
        at = full * BLOCK
        return self.identity(self.parent(links[full], at), keys[at:count]) if rest else links[full]
