"""Other versions, other models and broken files: whatever a folder holds, nobody gets a state that is not theirs."""

import os
from array import array
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from llamaserver import store_setup
from llamaserver.config import Config
from llamaserver.interfaces.backend import ModelInfo
from llamaserver.kvstore import blockfile, identity
from llamaserver.kvstore.blockfile import DamagedBlockError, head_size
from llamaserver.kvstore.blocks import Block, BlockId
from llamaserver.kvstore.identity import BLOCK
from llamaserver.kvstore.store import KVStore

from tests.support.engine.kv import block_in, chain, file_of, files, found, opened, save
from tests.support.engine.toy import ToyBackend

FINGERPRINT, OTHER = b"a" * 16, b"b" * 16
MODEL = Path("model.gguf")
U32 = st.integers(0, 2**32 - 1)
ANY = settings(deadline=None)
SLOW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

# ---- the fingerprint

NUMBERS = {  # options that change what is in a state
    *("cache_type_k", "cache_type_v", "flash_attn", "rope_scaling", "rope_freq_base", "rope_freq_scale", "mmproj"),
    *("yarn_orig_ctx", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow", "override_kv"),
}
LOADED = {"architecture", "flash_attn", "state_version", "partial_reuse"}  # and facts about the loaded model
LAYOUT = {"unified", "n_seq_max"}  # that a state which cannot be cut was made in
INFO = ToyBackend().info
OTHERS: dict[type, Callable[[Any], Any]] = {
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value + 0.5,
    str: lambda value: f"{value}other",
    tuple: lambda value: (*value, ("adapter", 0.5)),
    frozenset: lambda value: value | {"other"},
    dict: lambda value: {**value, "other": "other"},
    type(None): lambda _: True,
}


class Known(dict[Path, str]):
    """The digest of any file: every file is another one."""

    def __missing__(self, path: Path) -> str:
        return f"sha256 of {path}"


def other(value: Any) -> Any:
    return value / "other" if isinstance(value, Path) else OTHERS[type(value)](value)


def changed(thing: Any, names: set[str]) -> Any:
    return replace(thing, **{name: other(getattr(thing, name)) for name in names})


def made(config: Config = Config(), info: ModelInfo = INFO, known: dict[Path, str] | None = None) -> bytes:  # noqa: B008
    return store_setup.fingerprint(config, MODEL, info, Known() if known is None else known)


def names_of(thing: Any) -> list[str]:
    return [field.name for field in fields(thing)]


@pytest.mark.parametrize("name", names_of(Config))
def test_an_option_changes_the_fingerprint_if_and_only_if_it_changes_states(name: str) -> None:
    assert (made(changed(Config(), {name})) != made()) == (name in NUMBERS)


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "whole"])
@pytest.mark.parametrize("name", names_of(ModelInfo))
def test_so_does_a_fact_about_the_model(name: str, cut: bool) -> None:
    """Of its file the digest says all."""
    info = replace(INFO, partial_reuse=cut)
    assert (made(info=changed(info, {name})) != made(info=info)) == (name in LOADED | (set() if cut else LAYOUT))


@ANY
@given(st.sets(st.sampled_from(names_of(Config))), st.sets(st.sampled_from(names_of(ModelInfo))))
def test_any_mixture_of_changes_is_told_apart_by_those_that_count(options: set[str], facts: set[str]) -> None:
    assume("partial_reuse" not in facts)
    differs = made(changed(Config(), options), changed(INFO, facts)) != made()
    assert differs == bool((options & NUMBERS) | (facts & LOADED))


@ANY
@given(
    st.dictionaries(st.sampled_from(["model", "eyes", "library", "state", "format", "block"]), st.integers(1, 1 << 40))
)
def test_each_version_of_files_and_library_is_a_place_of_its_own(versions: dict[str, int]) -> None:
    def of(versions: dict[str, int]) -> bytes:
        config = Config(mmproj="eyes.gguf")
        known = {MODEL: f"{versions.get('model', 0):064x}", Path("eyes.gguf"): f"{versions.get('eyes', 0):064x}"}
        library, form, block = (versions.get(name, 0) for name in ("library", "format", "block"))
        sizes = patch.object(blockfile, "FORMAT", form), patch.object(identity, "BLOCK", block)
        with patch.object(store_setup, "version", lambda _: f"0.{library}"), sizes[0], sizes[1]:
            return made(config, replace(INFO, state_version=versions.get("state", 0)), known)

    assert (of(versions) != of({})) == bool(versions)
    assert of(versions) == of(dict(reversed(versions.items())))


# ---- the file


def block_of(keys: "array[int]", whole: bool) -> Block:
    links = chain(fingerprint=FINGERPRINT)
    name = links.identity_at(links.links(keys), keys, len(keys))
    state = np.arange(5 * len(keys), dtype=np.uint8)
    return Block(BlockId(links.start, name, 0, len(keys), len(keys), whole), keys, state)


BLOCKS = [block_of(array("q", range(40)), whole=False), block_of(array("q", range(100)), whole=True)]


def accepted(content: bytes, block: Block, fingerprint: bytes = FINGERPRINT) -> bool:
    """Whether a file is taken for the block; then it must be the block."""
    try:
        read = block_in(content, block.id, fingerprint)
    except DamagedBlockError:
        return False
    assert (read.id, read.keys, read.payload.tobytes()) == (block.id, block.keys, block.payload.tobytes())
    return True


@ANY
@given(st.sampled_from(BLOCKS), U32)
def test_a_file_of_another_format_is_foreign(block: Block, version: int) -> None:
    """Written by a later version, which is whole and sound to that one."""
    assume(version != blockfile.FORMAT)
    with patch.object(blockfile, "FORMAT", version):
        content = file_of(block, FINGERPRINT)
        assert accepted(content, block)
    with pytest.raises(DamagedBlockError, match="foreign"):
        block_in(content, block.id, FINGERPRINT)


@ANY
@given(st.sampled_from(BLOCKS), st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_a_file_is_of_one_fingerprint_only(block: Block, writer: bytes, reader: bytes) -> None:
    assert accepted(file_of(block, writer), block, writer)
    assert accepted(file_of(block, writer), block, reader) == (writer == reader)


# ---- the folder


def flipped(data: st.DataObject, content: bytearray, where: slice) -> None:
    at = data.draw(st.sampled_from(range(len(content))[where]))
    content[at] ^= data.draw(st.integers(1, 255))


def damage(data: st.DataObject, path: Path, others: list[Path]) -> None:
    """What crashes, rotten disks, copies by hand and other versions leave under a block's name."""
    content, second = bytearray(path.read_bytes()), data.draw(st.sampled_from(others))
    foreign = second.read_bytes() if second.is_file() else b""  # it may be odd by now
    count = int(path.name.split("-")[1], 16)
    head, keys = head_size(0), head_size(count)
    match data.draw(st.sampled_from(["head", "keys", "state", "cut", "longer", "zeros", "swap", "mixed", "odd"])):
        case "head":
            flipped(data, content, slice(0, head))
        case "keys":
            flipped(data, content, slice(head, keys))
        case "state":
            flipped(data, content, slice(keys, None))
        case "cut":
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        case "longer":
            content += data.draw(st.binary(min_size=1, max_size=100))
        case "zeros":  # the length was written, the end was not
            at = data.draw(st.integers(0, len(content) - 1))
            content[at:] = bytes(len(content) - at)
        case "swap":
            content = bytearray(foreign)
        case "mixed":
            content[keys:] = foreign[-(len(content) - keys) :]
        case "odd":
            path.unlink()
            data.draw(st.sampled_from([os.mkfifo, Path.mkdir, lambda place: place.symlink_to(second)]))(path)
            return
    path.write_bytes(content)


def keys(count: int, seed: int) -> "array[int]":
    return array("q", [(seed * 1000003 + i * i * 7 + i) % 50000 for i in range(count)])


def heal(store: KVStore, prompt: "array[int]", model: int) -> None:
    """Save it until it is there: what is wrong shows when it is read, one file a time."""
    for _ in range(len(prompt) // BLOCK + 2):
        save(store, prompt, model=model)
        if found(store, prompt + keys(5, 9), model=model) == len(prompt):
            return
    raise AssertionError("it is never kept")


@SLOW
@given(st.data())
def test_whatever_lies_in_the_folder_is_a_miss_or_right(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """`found` compares each state with the one that this model makes of the prompt."""
    folder, whole = tmp_path_factory.mktemp("kv"), data.draw(st.booleans())
    prompts = [keys(200, 1), keys(BLOCK, 1) + keys(30, 2)]
    models = [(FINGERPRINT, 1), (OTHER, 2)]
    for fingerprint, model in models:
        with opened(folder, fingerprint=fingerprint, whole=whole) as store:
            for prompt in prompts:
                save(store, prompt, model=model)
    there = files(folder)
    for path in data.draw(st.lists(st.sampled_from(there), min_size=1, max_size=4, unique=True)):
        damage(data, path, there)
    for fingerprint, model in models:
        with opened(
            folder, fingerprint=fingerprint, whole=whole, ram_bytes=data.draw(st.sampled_from([0, -1]))
        ) as store:
            for prompt in prompts:
                assert found(store, prompt + keys(5, 9), model=model) <= len(prompt)
            for prompt in prompts:
                heal(store, prompt, model)
    with opened(folder, fingerprint=FINGERPRINT, whole=whole) as store:
        assert [found(store, prompt + keys(5, 9), model=1) for prompt in prompts] == [len(p) for p in prompts]


@SLOW
@given(st.lists(st.tuples(st.sampled_from([1, 2, 77]), st.sampled_from([FINGERPRINT, OTHER])), min_size=2, max_size=4))
def test_servers_of_several_versions_on_one_folder_use_their_own_files_only(
    tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, bytes]]
) -> None:
    folder, wrote, prompt = tmp_path_factory.mktemp("kv"), dict[bytes, int](), keys(130, 1)
    for version, fingerprint in lives:
        with patch.object(blockfile, "FORMAT", version), opened(folder, fingerprint=fingerprint) as store:
            model = 256 * version + fingerprint[0]
            mine = wrote.get(fingerprint) == version
            assert found(store, prompt, model=model) == (len(prompt) if mine else 0)
            assert set(store.stats().discards) == ({"foreign"} if fingerprint in wrote and not mine else set())
            heal(store, prompt, model)
            wrote[fingerprint] = version
