"""Makes the KV store of a loaded model from the configuration. Computes the fingerprint of its states."""

import hashlib
import hmac
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from .config import Config
from .errors import ConfigError
from .files import open_regular, write_atomically
from .interfaces.backend import Backend, ModelInfo
from .kvstore import blockfile, identity, key
from .kvstore.messages import Shape, StoreOptions
from .kvstore.store import KVStore
from .models import digest

_log = logging.getLogger(__name__)
_SPLIT = re.compile(r"(.*-)00001(-of-)([0-9]{5})(\.gguf)")
_DIGESTS = ".digests"  # subfolder of the store's folder
_MOST_RECORD = 4096  # bytes
_POLL = 0.5  # seconds between reports of the progress
_MIB = 1024 * 1024
_FINGERPRINT = 16  # bytes
# These options change the numbers in a state. The number of slots and the size of the context do not.
_SETTINGS = (
    *("cache_type_k", "cache_type_v", "rope_scaling", "rope_freq_base", "rope_freq_scale"),
    *("yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"),
)


def wanted(config: Config) -> bool:
    """Whether the configuration enables a store. Self-extend excludes a store: it changes the positions in a state."""
    in_memory = config.cache_ram != 0 and not config.embedding
    return (_on_disk(config) or in_memory) and config.grp_attn_n == 1


def _on_disk(config: Config) -> bool:
    return bool(config.kv_store) and config.kv_store_mode != "off"


def secret(config: Config) -> bytes:
    """The store's key from --kv-store-key-file, b"" without one. Raises ConfigError."""
    path = config.kv_store_key_file
    if not path:
        return b""
    try:
        return key.of_text(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--kv-store-key-file {path}: {getattr(error, 'strerror', None) or error}") from error


class Identities:
    """The identity of each file of a model. A thread computes it during the load, as reading the files takes long."""

    def __init__(self, config: Config, model: Path) -> None:
        paths = files(config, model)
        self._before = {path: _stamp(path) for path in paths}
        self._read: dict[Path, int] = {}  # bytes
        pool = ThreadPoolExecutor(1, "digest")
        if _on_disk(config):
            self._found = pool.submit(digests, paths, config.kv_store, secret(config), self._read)
        else:
            self._found = pool.submit(_names, paths)
        pool.shutdown(wait=False)

    def result(self, progress: Callable[[float], bool]) -> dict[Path, str] | None:
        """Wait for the identity of each file. None if a file has changed since the start.

        Meanwhile, `progress` gets the share of the bytes that are read, from 0 to 1. If it returns False, the result
        is None.
        """
        if not self._found.done():
            _log.info("checking the model for the KV store: its files are read to the end before the server is ready")
        size = sum(stamp[1] for stamp in self._before.values() if stamp) or 1
        while not wait([self._found], _POLL).done:
            if not progress(sum(self._read.copy().values()) / size):
                return None
        found = self._found.result()
        for path, stamp in self._before.items():
            if _stamp(path) != stamp:
                _log.warning("%s has changed while it was loaded: conversations are not saved", path)
                return None
        return found


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and time of a file. Another file of the same name has other values. None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _names(paths: Iterable[Path]) -> dict[Path, str]:
    """Hashes of the paths. They are enough for states that stay in this process. No file is read."""
    return {path: hashlib.sha256(os.fsencode(path)).hexdigest() for path in paths}


def files(config: Config, model: Path) -> list[Path]:
    """Every file that a state depends on: all parts of the model, the projector and the adapters."""
    found = _SPLIT.fullmatch(model.name)
    numbers = range(1, int(found[3]) + 1) if found else ()
    parts = [model.with_name(f"{found[1]}{n:05}{found[2]}{found[3]}{found[4]}") for n in numbers] if found else [model]
    return [*parts, *([Path(config.mmproj)] if config.mmproj else []), *(Path(path) for path, _ in config.lora)]


def digests(
    paths: Iterable[Path], store: str, given: bytes = b"", read: dict[Path, int] | None = None
) -> dict[Path, str]:
    """The SHA-256 of each file. It is computed once, and kept in the store's folder. `given`: the store's key.

    `read` gets the bytes read of each file. The record carries a code made with the key. The `.sha256` beside a model
    does not: with it, whoever can write the model's folder could make one model go on with the states of another.
    """
    try:
        secret = given or key.of_folder(Path(store))
    except OSError as error:
        _log.warning("cannot read the key of the KV store %s: %s", store, error.strerror or error)
        secret = b""
    return {path: _digest(path, Path(store, _DIGESTS), secret, {} if read is None else read) for path in paths}


def _digest(path: Path, folder: Path, secret: bytes, read: dict[Path, int]) -> str:
    name, status = str(path.absolute()), path.stat()
    # The key is in the name, too. So servers with different keys keep their records side by side.
    record = folder / blake2b(os.fsencode(name), key=secret, digest_size=32, person=b"kv record").hexdigest()

    def sealed(sha256: str) -> bytes:
        values = json.dumps({"file": name, "stamp": [status.st_size, status.st_mtime_ns], "sha256": sha256})
        code = blake2b(values.encode(), key=secret, digest_size=32, person=b"kv digest").hexdigest()
        return json.dumps({"sha256": sha256, "code": code}).encode()

    content = _content(record) if secret else b""
    known = _sha256_in(content)
    if known and hmac.compare_digest(content, sealed(known)):
        return known
    found = digest.compute(path, lambda have, _: read.update({path: have}))
    if secret:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(record, [sealed(found)], durable=False, mode=0o600)
        except OSError as error:
            _log.info("cannot store the SHA-256 of %s: %s", path, error)
    return found


def _content(record: Path) -> bytes:
    """The bytes of a record. b"" if there is none that can be read."""
    try:
        with os.fdopen(open_regular(record), "rb") as file:
            return file.read(_MOST_RECORD)
    except OSError:
        return b""


def _sha256_in(content: bytes) -> str:
    try:
        return str(json.loads(content)["sha256"])
    except (ValueError, TypeError, KeyError):
        return ""


def open_store(
    config: Config,
    model: Path,
    backend: Backend,
    identities: Identities,
    progress: Callable[[float], bool] = lambda _: True,
) -> KVStore | None:
    """The store for this model. None if its states cannot be saved. `progress`: of `Identities.result`."""
    info = backend.info
    if not info.causal or (known := identities.result(progress)) is None:
        return None
    options = StoreOptions(
        folder=Path(config.kv_store) if _on_disk(config) else None,
        mode=config.kv_store_mode,
        max_bytes=config.kv_store_max_bytes,
        ttl=config.kv_store_ttl,
        min_tokens=config.kv_store_min_tokens,
        ram_bytes=_ram_bytes(config),
        secret=secret(config),
    )
    shape = Shape(
        fingerprint=fingerprint(config, model, info, known),
        adapters=tuple(bytes.fromhex(known[Path(path)]) for path, _ in config.lora),
        codec=backend.codec,
        window=info.n_swa,
    )
    _log.info("KV store: %s, %s, fingerprint %s", options.folder or "in memory", options.mode, shape.fingerprint.hex())
    return KVStore(options, shape)


def _ram_bytes(config: Config) -> int:
    """The size of the tier in memory, in bytes. 0 is no tier, -1 is no limit."""
    if config.embedding:
        return 0
    return config.cache_ram * _MIB if config.cache_ram > 0 else config.cache_ram


def fingerprint(config: Config, model: Path, info: ModelInfo, known: Mapping[Path, str]) -> bytes:
    """A hash of everything that two servers must have in common to share states. The adapters are not part of it."""
    adapters = {Path(path) for path, _ in config.lora}
    parts = {
        "files": [known[path] for path in files(config, model) if path not in adapters],
        "architecture": info.architecture,
        "settings": [str(getattr(config, name)) for name in _SETTINGS],
        "flash_attn": info.flash_attn or config.flash_attn,  # it changes the order of the values
        "library": [version("llama-cpp-python"), info.state_version],
        # Without the format, two releases on one volume would remove each other's files as damaged.
        "format": [blockfile.FORMAT, identity.BLOCK],
        "long_rope": _long_rope(info),
        # A state that cannot be cut fits only the layout in which it was made.
        "layout": None if info.partial_reuse else [info.unified, info.n_seq_max],
        **({"metadata": config.override_kv} if config.override_kv else {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:_FINGERPRINT]


def _long_rope(info: ModelInfo) -> bool:
    """Whether the model uses its second set of RoPE factors. Models do so for a long context."""
    original = info.metadata.get(f"{info.architecture}.rope.scaling.original_context_length", "")
    context = info.n_ctx if info.unified else info.n_ctx // info.n_seq_max
    return original.isdigit() and context > int(original)
