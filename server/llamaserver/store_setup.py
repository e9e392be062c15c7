"""From the configuration to the KV store of a loaded model: what makes two states interchangeable."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from .config import Config
from .files import write_atomically
from .interfaces.backend import Backend, ModelInfo
from .kvstore import blocks
from .kvstore.messages import Shape, StoreOptions
from .kvstore.store import KVStore
from .models import digest

_log = logging.getLogger(__name__)
_SPLIT = re.compile(r"(.*-)00001(-of-)([0-9]{5})(\.gguf)")
_KEPT = ".digests"  # in the store's folder: for models in folders that cannot be written
# What changes the numbers in a state; the number of slots and the size of the context do not.
_SETTINGS = (
    *("cache_type_k", "cache_type_v", "rope_scaling", "rope_freq_base", "rope_freq_scale"),
    *("yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"),
)


def wanted(config: Config) -> bool:
    """Whether there is to be a store at all. Self-extend moves positions: its states are of no use to others."""
    in_memory = config.cache_ram != 0 and not config.embedding
    return (_on_disk(config) or in_memory) and config.grp_attn_n == 1


def _on_disk(config: Config) -> bool:
    return bool(config.kv_store) and config.kv_store_mode != "off"


class Identities:
    """What tells the files of a model apart, found out while they are loaded: reading them takes as long."""

    def __init__(self, config: Config, model: Path) -> None:
        paths = files(config, model)
        self._before = {path: _stamp(path) for path in paths}
        pool = ThreadPoolExecutor(1, "digest")
        self._found = pool.submit(digests, paths, config.kv_store) if _on_disk(config) else pool.submit(_names, paths)
        pool.shutdown(wait=False)

    def result(self) -> dict[Path, str] | None:
        """One of each file; None when it may not be of the file that was loaded."""
        found = self._found.result()
        for path, stamp in self._before.items():
            if _stamp(path) != stamp:
                _log.warning("%s has changed while it was loaded: conversations are not saved", path)
                return None
        return found


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What another file that takes the name does not have in common with this one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _names(paths: Iterable[Path]) -> dict[Path, str]:
    """Enough for what stays in this process: nothing is read."""
    return {path: hashlib.sha256(os.fsencode(path)).hexdigest() for path in paths}


def files(config: Config, model: Path) -> list[Path]:
    """Every file that a state depends on: all parts of the model, the projector, the adapters."""
    found = _SPLIT.fullmatch(model.name)
    numbers = range(1, int(found[3]) + 1) if found else ()
    parts = [model.with_name(f"{found[1]}{n:05}{found[2]}{found[3]}{found[4]}") for n in numbers] if found else [model]
    return [*parts, *([Path(config.mmproj)] if config.mmproj else []), *(Path(path) for path, _ in config.lora)]


def digests(paths: Iterable[Path], store: str) -> dict[Path, str]:
    """The SHA-256 of each file; computed once, kept beside the file or else in the store's folder."""
    return {path: digest.recorded(path) or _kept(path, store) for path in paths}


def _kept(path: Path, store: str) -> str:
    """A digest that could not be kept beside its file."""
    beside = Path(store, _KEPT, hashlib.sha256(str(path.absolute()).encode()).hexdigest()) if store else None
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    try:
        known = json.loads(beside.read_bytes()) if beside else None
        if isinstance(known, dict) and known.get("stamp") == stamp:
            return str(known["sha256"])
    except (OSError, ValueError):
        pass  # never written, or half
    found = digest.sha256(path)
    if beside and not digest.recorded(path):
        try:
            beside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(beside, [json.dumps({"stamp": stamp, "sha256": found}).encode()], durable=False)
        except OSError as error:
            _log.info("cannot store the SHA-256 of %s: %s", path, error)
    return found


def open_store(config: Config, model: Path, backend: Backend, identities: Identities) -> KVStore | None:
    """The store for this model, None where states are not to be kept or cannot be."""
    info = backend.info
    if not info.causal or (known := identities.result()) is None:
        return None
    options = StoreOptions(
        folder=Path(config.kv_store) if _on_disk(config) else None,
        mode=config.kv_store_mode,
        max_bytes=config.kv_store_max_bytes,
        ttl=config.kv_store_ttl,
        min_tokens=config.kv_store_min_tokens,
        ram_bytes=0
        if config.embedding
        else config.cache_ram * 1024 * 1024
        if config.cache_ram > 0
        else config.cache_ram,
    )
    shape = Shape(
        fingerprint=fingerprint(config, model, info, known),
        adapters=tuple(bytes.fromhex(known[Path(path)]) for path, _ in config.lora),
        codec=backend.codec,
        window=info.n_swa,
    )
    _log.info("KV store: %s, %s, fingerprint %s", options.folder or "in memory", options.mode, shape.fingerprint.hex())
    return KVStore(options, shape)


def fingerprint(config: Config, model: Path, info: ModelInfo, known: Mapping[Path, str]) -> bytes:
    """A hash of all that two servers must have in common to use each other's states, adapters aside."""
    adapters = {Path(path) for path, _ in config.lora}
    parts = {
        "files": [known[path] for path in files(config, model) if path not in adapters],
        "architecture": info.architecture,
        "settings": [str(getattr(config, name)) for name in _SETTINGS],
        "flash_attn": info.flash_attn or config.flash_attn,  # with it values lie in another order
        "library": [version("llama-cpp-python"), info.state_version],
        # Two releases on one volume would else each take the other's files for damage, and remove them.
        "format": [blocks.FORMAT, blocks.BLOCK],
        "long_rope": _long_rope(info),
        # A state that cannot be cut fits only the layout it was made in.
        "layout": None if info.partial_reuse else [info.unified, info.n_seq_max],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:16]


def _long_rope(info: ModelInfo) -> bool:
    """Whether the model has chosen its second set of RoPE factors, as it does for a long context."""
    original = info.metadata.get(f"{info.architecture}.rope.scaling.original_context_length", "")
    context = info.n_ctx if info.unified else info.n_ctx // info.n_seq_max
    return original.isdigit() and context > int(original)
