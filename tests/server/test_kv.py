"""Which servers may use each other's states, and how the files behind that are told apart."""

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llamaserver import store_setup
from llamaserver.config import Config
from llamaserver.interfaces.backend import ModelInfo
from llamaserver.models import digest

from tests.support.engine.toy import ToyBackend
from tests.support.polling import until


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def made(config: Config, model: Path, info: ModelInfo) -> bytes:
    known = store_setup.digests(store_setup.files(config, model), str(model.parent / "kv"))
    return store_setup.fingerprint(config, model, info, known)


@pytest.mark.parametrize(
    "change",
    [
        {"cache_type_k": "q8_0"}, {"cache_type_v": "q8_0"}, {"flash_attn": "on"}, {"rope_scaling": "yarn"},
        {"rope_freq_base": 1e6}, {"rope_freq_scale": 0.5}, {"yarn_orig_ctx": 512}, {"yarn_ext_factor": 0.5},
        {"yarn_attn_factor": 0.5}, {"yarn_beta_fast": 2.0}, {"yarn_beta_slow": 2.0},
        {"override_kv": (("llama.rope.freq_base", 5e5),)},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_change_the_state_change_the_fingerprint(change: dict[str, Any], model: Path) -> None:
    info = ToyBackend().info
    assert made(Config(**change), model, info) != made(Config(), model, info)


@pytest.mark.parametrize("change", [{"parallel": 8}, {"ctx_size": 8192}, {"batch_size": 64}, {"threads": 1}], ids=str)
def test_other_options_keep_the_fingerprint(change: dict[str, Any], model: Path) -> None:
    info = ToyBackend().info
    assert made(Config(**change), model, info) == made(Config(), model, info)
    assert made(Config(), model, replace(info, n_seq_max=9, n_ctx=9, unified=True)) == made(Config(), model, info)


def test_flash_attention_counts_as_it_was_in_the_end(model: Path) -> None:
    on, off = (replace(ToyBackend().info, flash_attn=value) for value in ("on", "off"))
    assert made(Config(), model, on) != made(Config(), model, off)
    assert made(Config(), model, on) == made(Config(flash_attn="on"), model, on)


def test_model_projector_and_library_are_part_of_it(model: Path, tmp_path: Path) -> None:
    info, projector = ToyBackend().info, tmp_path / "mmproj.gguf"
    projector.write_bytes(b"eyes")
    plain, seeing = made(Config(), model, info), made(Config(mmproj=str(projector)), model, info)
    projector.write_bytes(b"other eyes")
    other_eyes = made(Config(mmproj=str(projector)), model, info)
    other_version = made(Config(), model, replace(info, state_version=99))
    model.write_bytes(b"other weights")
    assert len({plain, seeing, other_eyes, other_version, made(Config(), model, info)}) == 5


def test_a_state_that_cannot_be_cut_is_of_one_layout(model: Path) -> None:
    info = replace(ToyBackend().info, partial_reuse=False)
    assert made(Config(), model, info) != made(Config(), model, replace(info, n_seq_max=9))
    assert made(Config(), model, info) == made(Config(), model, replace(info, n_ctx=info.n_ctx * 2))


def test_factors_for_long_contexts_are_other_numbers(model: Path) -> None:
    metadata = {"toy.rope.scaling.original_context_length": "4096"}
    short = replace(ToyBackend().info, metadata=metadata, n_ctx=8192, n_seq_max=2)
    assert made(Config(), model, short) != made(Config(), model, replace(short, n_ctx=16384))
    assert made(Config(), model, short) == made(Config(), model, replace(short, n_ctx=4096))


def test_every_part_of_a_split_model_counts(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert store_setup.files(Config(lora=(("a.gguf", 0.5),), mmproj="p.gguf"), parts[0]) == [
        *parts, Path("p.gguf"), Path("a.gguf"),
    ]  # fmt: skip


def test_a_digest_is_computed_once_and_kept_in_the_store(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "kv"
    found = store_setup.digests([model], str(store))
    assert found == {model: digest.compute(model)}
    monkeypatch.setattr(digest, "compute", lambda *_: pytest.fail("read again"))
    assert store_setup.digests([model], str(store)) == found
    os.utime(model, (1, 1))  # another file, for all we know
    monkeypatch.setattr(digest, "compute", lambda *_: "anew")
    assert store_setup.digests([model], str(store)) == {model: "anew"}
    for path in (store / ".digests").iterdir():
        path.write_text("{half")
    assert store_setup.digests([model], str(store)) == {model: "anew"}


def test_a_digest_that_others_have_written_is_not_believed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither beside the model, nor in the store without its key."""
    digest.record(model, model.stat(), "0" * 64)
    right = {model: digest.compute(model)}
    ours, theirs = tmp_path / "kv", tmp_path / "other"
    assert store_setup.digests([model], str(ours)) == right
    with monkeypatch.context() as patched:
        patched.setattr(digest, "compute", lambda *_: "1" * 64)
        store_setup.digests([model], str(theirs))
    (forged,) = (theirs / ".digests").iterdir()
    for record in (ours / ".digests").iterdir():
        record.write_bytes(forged.read_bytes())
    assert store_setup.digests([model], str(ours)) == right
    for record in (ours / ".digests").iterdir():
        record.unlink()
        os.mkfifo(record)
    assert store_setup.digests([model], str(ours)) == right
    assert store_setup.digests([model], str(ours), bytes(32)) == right


def test_servers_with_different_keys_keep_a_record_each(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [store_setup.digests([model], str(tmp_path), bytes([number]) * 32) for number in (1, 2)]
    monkeypatch.setattr(digest, "compute", lambda *_: pytest.fail("read again"))
    assert [store_setup.digests([model], str(tmp_path), bytes([number]) * 32) for number in (1, 2)] == found


@pytest.mark.parametrize("goes_on", [True, False])
def test_the_check_of_the_model_shows_its_progress_and_can_be_stopped(
    goes_on: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(store_setup, "_POLL", 0.001)
    gate, shares = threading.Event(), []

    def slowly(path: Path, progress: Callable[[int, int], None]) -> str:
        progress(3, 7)
        assert gate.wait(30)
        return "0" * 64

    def shown(share: float) -> bool:
        shares.append(share)
        if share or not goes_on:
            gate.set()
        return goes_on

    monkeypatch.setattr(digest, "compute", slowly)
    identities = store_setup.Identities(Config(kv_store=str(tmp_path / "kv")), model)
    assert identities.result(shown) == ({model: "0" * 64} if goes_on else None)
    assert set(shares) <= {0, 3 / 7}
    assert "checking the model" in caplog.text


def test_without_a_folder_to_write_a_digest_is_computed_each_time(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert store_setup.digests([model], str(tmp_path / "file" / "kv")) == {model: digest.compute(model)}


def replaced(path: Path) -> None:
    """Another file of the same size takes the name, as after a download or rsync."""
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("what", ["model", "projector", "adapter"])
@pytest.mark.parametrize("when", ["before it is read", "after it was read"])
@pytest.mark.parametrize("change", [replaced, Path.unlink, lambda path: os.utime(path, (1, 1))])
def test_a_file_that_changed_while_it_was_loaded_has_no_store(
    what: str,
    when: str,
    change: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = {name: tmp_path / name for name in ("model", "projector", "adapter")}
    for path in paths.values():
        path.write_bytes(b"weights")
    config = Config(kv_store=str(tmp_path / "kv"), mmproj=str(paths["projector"]), lora=((str(paths["adapter"]), 1.0),))
    gate = threading.Event()
    digests = store_setup.digests

    def held(*asked: Any) -> dict[Path, str]:
        found = digests(*asked) if when == "after it was read" else {}
        assert gate.wait(30)
        return found or digests(*asked)

    monkeypatch.setattr(store_setup, "digests", held)
    identities = store_setup.Identities(config, paths["model"])
    if when == "after it was read":
        until(lambda: len(list((tmp_path / "kv").glob(".digests/*"))) == len(paths), "they have been read")
    change(paths[what])
    gate.set()
    if change is Path.unlink and when == "before it is read":
        with pytest.raises(FileNotFoundError):
            store_setup.open_store(config, paths["model"], ToyBackend(n_lora=1), identities)
        return
    assert store_setup.open_store(config, paths["model"], ToyBackend(n_lora=1), identities) is None
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert str(paths[what]) in line


def test_an_unchanged_file_has_a_store(model: Path, tmp_path: Path) -> None:
    config = Config(kv_store=str(tmp_path / "kv"))
    store = store_setup.open_store(config, model, ToyBackend(), store_setup.Identities(config, model))
    assert store is not None
    assert store.shape.fingerprint == made(config, model, ToyBackend().info)


def test_a_digest_is_not_kept_for_the_file_that_came_after(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = digest.compute

    def slowly(path: Path, *_: Any) -> str:
        found = compute(path)
        path.write_bytes(b"other weights")
        return found

    monkeypatch.setattr(digest, "compute", slowly)
    store_setup.digests([model], str(tmp_path / "kv"))
    assert store_setup.digests([model], str(tmp_path / "kv")) == {model: compute(model)}


def test_nothing_is_read_for_what_stays_in_memory(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "compute", lambda *_: pytest.fail("read"))
    adapters = [model.with_name(f"{name}.gguf") for name in "ab"]
    for path in adapters:
        path.write_bytes(b"adapter")
    config = Config(cache_ram=10, lora=tuple((str(path), 1.0) for path in adapters))
    store = store_setup.open_store(config, model, ToyBackend(n_lora=2), store_setup.Identities(config, model))
    assert store is not None
    assert len(set(store.shape.adapters)) == 2
    assert not list(model.parent.glob("*.sha256"))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, False),
        ({"kv_store": "/kv"}, True),
        ({"kv_store": "/kv", "kv_store_mode": "off"}, False),
        ({"cache_ram": 10}, True),
        ({"cache_ram": -1}, True),
        ({"cache_ram": 10, "embedding": True}, False),
        ({"kv_store": "/kv", "grp_attn_n": 2}, False),
    ],
)
def test_when_there_is_a_store(fields: dict[str, Any], wanted: bool) -> None:
    assert store_setup.wanted(Config(**fields)) is wanted
