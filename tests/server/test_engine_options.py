"""From Config to the settings of the scheduler and of the library."""

from dataclasses import fields
from pathlib import Path

import pytest
from llamaserver.config import MAX_SEQUENCES, Config
from llamaserver.engine_options import engine_settings, load_options
from llamaserver.llama.options import LoadOptions
from llamaserver.scheduling.settings import EngineSettings

DEFAULTS = {item.name: item.default for item in fields(Config)}
COMPUTED = {"model", "n_seq_max", "n_slots", "ubatch_size", "shifts", "slot_ctx", "lora_scales"}


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + 3
    return ("x",) if isinstance(value, tuple) else f"{value}x"


@pytest.mark.parametrize("made", [LoadOptions, EngineSettings])
def test_each_option_arrives_under_its_name(made):
    names = {item.name for item in fields(made)} - COMPUTED
    assert names <= set(DEFAULTS)
    for name in names:
        config = Config(**{name: other(DEFAULTS[name])})
        result = load_options(config, Path("m")) if made is LoadOptions else engine_settings(config)
        assert getattr(result, name) == getattr(config, name), name


@pytest.mark.parametrize(
    ("given", "n_seq_max", "slot_ctx"),
    [
        ({"parallel": 4, "ctx_size": 1000}, 4, 250),
        ({"parallel": 4, "ctx_size": 1000, "kv_unified": True}, 12, 1000),
        ({"parallel": 250, "ctx_size": 5000, "kv_unified": True}, MAX_SEQUENCES, 5000),
    ],
)
def test_slots_and_sequences(given, n_seq_max, slot_ctx):
    config = Config(**given)
    assert load_options(config, Path("m")).n_seq_max == n_seq_max
    assert engine_settings(config).slot_ctx == slot_ctx
    assert load_options(config, Path("m")).n_slots == engine_settings(config).n_slots == config.parallel


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"batch_size": 64, "ubatch_size": 512}, 64),
        ({"batch_size": 2048, "ubatch_size": 512}, 512),
        ({"batch_size": 2048, "ubatch_size": 512, "embedding": True}, 2048),
    ],
)
def test_the_micro_batch(given, size):
    assert load_options(Config(**given), Path("m")).ubatch_size == size


@pytest.mark.parametrize(
    ("given", "shifts"),
    [({}, True), ({"context_shift": False}, False), ({"context_shift": False, "grp_attn_n": 2}, True)],
)
def test_positions_shift_by_context_shift_or_self_extend(given, shifts):
    assert load_options(Config(**given), Path("m")).shifts is shifts


def test_adapters_bring_their_scales():
    config = Config(lora=(("a", 1.0), ("b", 0.5)))
    assert load_options(config, Path("m")).lora == config.lora
    assert engine_settings(config).lora_scales == (1.0, 0.5)
