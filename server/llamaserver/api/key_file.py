"""The text of a key file: one API key per line, with settings after it.

    # comment
    3f1c...                                                       a key without a name
    9ab0... name=alice role=user requests=4 queued=16 tokens-per-minute=60000 domain=team
    77de... name=root role=admin

Keys of one name are one tenant, so that an old and a new key can be valid together.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

from ..errors import ConfigError

_MAX_FILE = 1 << 20  # bytes
_BOM = b"\xef\xbb\xbf"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # the names of a Secret's entries, but none that is hidden
_SETTINGS = ("name", "role", "requests", "queued", "tokens-per-minute", "domain")
_MOST = 10**9


@dataclass(frozen=True, slots=True)
class Limits:
    """What one key may use. None: no limit."""

    requests: int | None = None  # answers that are computed at the same time
    queued: int | None = None  # answers that wait for a slot
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An API key without its secret: who asks, and what they may do."""

    name: str
    role: Literal["admin", "user"]
    limits: Limits = Limits()
    identity: str = ""  # of the tenant; no two tenants share it, and it stays when lines move
    domain: str = ""  # in which cached prompts may be reused

    @property
    def bound(self) -> str | None:
        """The tenant to which the key's rights are bound. None: an admin."""
        return None if self.role == "admin" else self.identity

    def sees(self, owner: str) -> bool:
        """Whether the key may read what a request of `owner` contained."""
        return self.bound in (None, owner)


ANYBODY = Key("", "admin")  # who asks a server without keys


@dataclass(frozen=True, slots=True)
class Line:
    """One key of a file, as written."""

    secret: bytes
    source: str  # for errors
    name: str = ""
    role: str = ""
    limits: Limits = Limits()
    domain: str = ""


def parse(data: bytes, source: str, name: str = "") -> Iterator[Line]:
    """The keys of one file. `name` is for those without one. Raises ConfigError, which never shows a key."""
    if name and not _NAME.fullmatch(name):
        raise ConfigError(f"{source}: the name of the file must have letters, digits, '.', '_' and '-' only")
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{source}: has more than {_MAX_FILE} bytes")
    for number, text in enumerate(data.removeprefix(_BOM).splitlines(), 1):
        words = text.split()
        if words and not words[0].startswith(b"#"):
            yield _line(words, f"{source}, line {number}", name)


def _line(words: list[bytes], source: str, name: str) -> Line:
    values: dict[str, str] = {}
    for number, word in enumerate(words[1:], 2):
        key, equals, value = word.decode("ascii", "replace").partition("=")
        if not equals or key not in _SETTINGS:
            known = ", ".join(f"{setting}=" for setting in _SETTINGS)
            raise ConfigError(f"{source}: word {number} is no setting. A key has no spaces; after it may stand {known}")
        if key in values:
            raise ConfigError(f"{source}: {key} is set twice")
        values[key] = value
    for key in ("name", "domain"):
        if key in values and not _NAME.fullmatch(values[key]):
            raise ConfigError(f"{source}: {key} must have 1 to 128 letters, digits, '.', '_' and '-'")
    if values.get("role", "user") not in ("admin", "user"):
        raise ConfigError(f"{source}: role must be admin or user")
    limits = Limits(
        requests=_number(values, "requests", 1, source),
        queued=_number(values, "queued", 0, source),
        tokens_per_minute=_number(values, "tokens-per-minute", 1, source),
    )
    return Line(words[0], source, values.get("name", name), values.get("role", ""), limits, values.get("domain", ""))


def _number(values: dict[str, str], key: str, low: int, source: str) -> int | None:
    text = values.get(key)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or not low <= int(text) <= _MOST:
        raise ConfigError(f"{source}: {key} must be a number from {low} to {_MOST}")
    return int(text)


def keys(lines: Iterable[Line]) -> dict[bytes, Key]:
    """The key of each secret. The only tenant of a server is an admin, unless its role is set.

    Raises ConfigError when one name has several settings, or one secret several names.
    """
    unique: dict[bytes, Line] = {}
    named: dict[str, Line] = {}
    for line in lines:
        other = unique.setdefault(line.secret, line)
        if _settings(other) != _settings(line):
            raise ConfigError(f"{line.source}: this key is also in {other.source}, with other settings")
        if line.name:
            other = named.setdefault(line.name, line)
            if _settings(other) != _settings(line):
                raise ConfigError(f"{line.source}: {other.source} gives {line.name} other settings")
    tenants = len(named) + sum(not line.name for line in unique.values())
    default: Literal["admin", "user"] = "admin" if tenants == 1 else "user"
    return {line.secret: _key(line, number, default) for number, line in enumerate(unique.values(), 1)}


def _settings(line: Line) -> Line:
    return replace(line, secret=b"", source="")


def _key(line: Line, number: int, default: Literal["admin", "user"]) -> Key:
    """The key of a line. One without a name is known by its place in logs, and by its secret elsewhere."""
    role: Literal["admin", "user"] = line.role or default  # type: ignore[assignment]  # it was checked
    identity = f"name:{line.name}" if line.name else f"key:{blake2b(line.secret, digest_size=16).hexdigest()}"
    domain = f"domain:{line.domain}" if line.domain else identity
    return Key(line.name or f"#{number}", role, line.limits, identity, domain)
