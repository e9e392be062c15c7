"""The warm-up on real contexts of every kind: it leaves nothing behind, and finds what cannot be served."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llamaserver.errors import ModelLoadError
from llamaserver.interfaces.backend import Batch, Status
from llamaserver.llama.backend import CACHE_TYPES, LlamaBackend

from tests.support.engine.options import load_options
from tests.support.models import BERT_CTX, Models
from tests.support.paths import model_path
from tests.support.server.client import Client
from tests.support.server.process import ServerProcess

pytestmark = pytest.mark.model
TOKENS = list(b"the llama and one image of the world")


def backend(model: Path, **options: Any) -> LlamaBackend:
    fields = {"ctx_size": 2048, "n_seq_max": 4, "n_slots": 4, "threads": 2, "threads_batch": 2}
    return LlamaBackend(load_options(model, **fields | options), lambda _: True)


def answers(one: LlamaBackend) -> list[np.ndarray]:
    """Logits of a prompt in the first sequence and of the token that follows it."""
    found = []
    for start, rows in ((0, TOKENS), (len(TOKENS), TOKENS[:1])):
        batch = Batch()
        for offset, token in enumerate(rows):
            batch.add(token, start + offset, 0, offset == len(rows) - 1)
        assert one.decode(batch) is Status.OK
        found.append(one.logits(len(rows) - 1).copy())
    return found


UNIFIED = {"kv_unified": True, "n_seq_max": 12}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "split": ("llama", {}),
    "one slot": ("llama", {"n_seq_max": 1, "n_slots": 1}),
    "unified": ("llama", UNIFIED),
    "context below the micro-batch": ("llama", {"ctx_size": 256}),
    "a small micro-batch": ("llama", {"batch_size": 2, "ubatch_size": 1}),
    "flash attention": ("llama", {"flash_attn": "on"}),
    "no flash attention": ("llama", {"flash_attn": "off"}),
    "quantized K": ("llama", {"flash_attn": "off", "cache_type_k": "q8_0"}),
    "f32 KV": ("llama", {"cache_type_k": "f32", "cache_type_v": "f32"}),
    "bf16 KV": ("llama", {"cache_type_k": "bf16", "cache_type_v": "bf16"}),
    "embeds too": ("llama", {"embedding": True, "ubatch_size": 2048}),
    "embeds without pooling": ("llama", {"embedding": True, "pooling": "none", "ubatch_size": 2048}),
    "sliding window": ("gemma2", {}),
    "sliding window, unified": ("gemma2", UNIFIED),
    "recurrent": ("mamba", {}),
    "recurrent, unified": ("mamba", UNIFIED),
    "hybrid": ("jamba", {}),
    "hybrid, unified": ("jamba", UNIFIED),
    "M-RoPE": ("qwen2vl", {}),
}


@pytest.mark.parametrize(("kind", "options"), SHAPES.values(), ids=SHAPES)
def test_nothing_is_left_behind(models: Models, kind: str, options: dict[str, Any]) -> None:
    fresh, warm = backend(getattr(models, kind)(), **options), backend(getattr(models, kind)(), **options)
    try:
        warm.warm_up()
        assert [warm.pos_max(seq) for seq in range(warm.info.n_seq_max)] == [-1] * warm.info.n_seq_max
        if warm.info.n_batch < len(TOKENS):
            return
        for first, second in zip(answers(fresh), answers(warm), strict=True):
            np.testing.assert_array_equal(first, second)
    finally:
        fresh.close()
        warm.close()


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_every_type_of_kv_cache_is_served(cache_type: str) -> None:
    one = backend(model_path(), cache_type_k=cache_type, cache_type_v=cache_type, ubatch_size=64)
    one.warm_up()
    assert one.info.can_shift == (cache_type != "bf16")  # the library cannot turn those
    one.close()


@pytest.mark.parametrize("scales", [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)])
def test_adapters_have_their_scales_again(models: Models, scales: tuple[float, float]) -> None:
    lora = tuple((str(models.lora(7 + number)), scale) for number, scale in enumerate(scales))
    fresh, warm = backend(models.llama(), lora=lora), backend(models.llama(), lora=lora)
    seen = []
    change = warm.set_lora
    warm.set_lora = lambda wanted: (seen.append(wanted), change(wanted))  # type: ignore[assignment,func-returns-value]
    warm.warm_up()
    assert all(seen[0])  # every adapter was tried
    for first, second in zip(answers(fresh), answers(warm), strict=True):
        np.testing.assert_array_equal(first, second)
    fresh.close()
    warm.close()


@pytest.mark.parametrize("pooling", ["mean", "cls", "none"])
def test_an_encoder_embeds_as_much_as_it_can(models: Models, pooling: str) -> None:
    one = backend(models.bert(pooling), embedding=True, ubatch_size=2048)
    rows = []
    decode = one.decode
    one.decode = lambda batch, **how: (rows.append(len(batch)), decode(batch, **how))[1]  # type: ignore[method-assign]
    one.warm_up()
    assert rows == [BERT_CTX]
    one.close()


@pytest.mark.parametrize("kind", ["llama", "idefics3", "qwen2vl"])
def test_a_projector_is_tried_with_an_image(models: Models, kind: str) -> None:
    one = backend(getattr(models, kind)(), mmproj=str(models.projector_of(kind)))
    images = []
    decode = one.decode_media
    one.decode_media = lambda *args: (images.append(args), decode(*args))[1]  # type: ignore[method-assign]
    one.warm_up()
    assert len(images) == 1
    assert one.pos_max(0) == -1
    one.close()


def spoilt(whole: Path, tensor: str, path: Path) -> Path:
    """A copy of a model with one NaN in a tensor."""
    found = next(one for one in gguf.GGUFReader(whole).tensors if one.name == tensor)
    content = bytearray(whole.read_bytes())
    content[found.data_offset : found.data_offset + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("kind", "tensor", "options", "problem"),
    [
        ("llama", "output.weight", (), "the logits of a prompt of 512 tokens are not finite numbers"),
        ("llama", "blk.1.ffn_up.weight", (), "the logits of a prompt of 512 tokens are not finite numbers"),
        ("mamba", "blk.0.ssm_in.weight", (), "the logits of a prompt of 512 tokens are not finite numbers"),
        ("bert", "blk.1.ffn_up.weight", ("--embedding",), "the embedding of an input of 64 tokens has numbers that"),
    ],
)
def test_a_model_whose_numbers_are_not_finite_is_never_ready(
    models: Models, tmp_path: Path, kind: str, tensor: str, options: tuple[str, ...], problem: str
) -> None:
    broken = spoilt(getattr(models, kind)(), tensor, tmp_path / "broken.gguf")
    log = tmp_path / "log"
    options = ("-c", "1024", "--warmup", *options)
    with ServerProcess("-m", str(broken), *options, "--termination-log", str(log), wait=False) as server:
        assert server.process is not None
        assert server.process.wait(60) == 1
    assert '"reason": "ModelLoadFailed"' in log.read_text()
    assert f"the warm-up has failed: {problem}" in log.read_text()
    assert f"llamaserver selftest -m {broken}" in log.read_text()


def test_an_image_whose_numbers_are_not_finite(models: Models, tmp_path: Path) -> None:
    broken = spoilt(models.projector(), "mm.2.weight", tmp_path / "broken.gguf")
    one = backend(models.llama(), mmproj=str(broken))
    with pytest.raises(ModelLoadError, match="the logits of an image are not finite numbers"):
        one.warm_up()


def test_a_context_is_not_shifted_where_the_library_would_crash(models: Models, serve: Callable[..., Any]) -> None:
    """Heads of 16 numbers are no whole block of a quantized K: generation ends at the limit instead."""
    with serve(models.llama(), "-c", "256", "-ctk", "q8_0", "-fa", "off") as client:
        assert_ends_at_the_limit(client)


def assert_ends_at_the_limit(client: Client) -> None:
    answer = client.complete("the llama", n_predict=400, ignore_eos=True)
    assert answer["truncated"]
    assert answer["stopped_limit"]
    assert answer["tokens_predicted"] < 256
