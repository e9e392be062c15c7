"""A model of random weights whose step is so short that what surrounds decode decides the rate.

It has the default model's vocabulary: sampling costs what it costs with a real model.
"""

import re
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tools import model
from tools.cache import cache_dir, exclusive

WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 2, 192, 4096
_SEED = 7
_WHOLE_WORD = re.compile("\u0120[a-z]+")  # with the space before it, as byte-level BPE writes it
_TOKENIZER = "tokenizer.ggml."
_INFILL = {"pre": "<issue_start>", "suf": "<issue_comment>", "mid": "<issue_closed>"}  # tokens without another use here


def ensure() -> Path:
    """Path of the model, made now if the cache has none."""
    path = cache_dir() / "bench" / f"random-{WIDTH}x{LAYERS}-{FEED_FORWARD}-infill.gguf"
    if not path.exists():
        with exclusive(path):
            scratch = path.with_suffix(".part")
            _write(scratch)
            scratch.rename(path)
    return path


def _write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = copy_vocabulary(writer, model.ensure())
    for name, token in _INFILL.items():
        writer.add_uint32(f"{_TOKENIZER}fim_{name}_token_id", tokens.index(token))
    _add_weights(writer, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_vocabulary(writer: gguf.GGUFWriter, source: Path) -> list[str]:
    """Give it the tokenizer of another file; returns the tokens."""
    fields = gguf.GGUFReader(source).fields
    for name, field in fields.items():
        if name.startswith(_TOKENIZER):
            kind, *inner = field.types
            writer.add_key_value(name, field.contents(), kind, inner[0] if inner else None)
    tokens: list[str] = fields[f"{_TOKENIZER}tokens"].contents()
    writer.add_vocab_size(len(tokens))
    return tokens


def unlikely(tokens: list[str]) -> list[bool]:
    """Rows of the output matrix that shall be zero: each step then gives one whole word, and one event."""
    return [_WHOLE_WORD.fullmatch(token) is None for token in tokens]


def _add_weights(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    random = np.random.default_rng(_SEED)

    def matrix(rows: int, columns: int) -> npt.NDArray[np.float16]:
        normal: npt.NDArray[np.float64] = random.standard_normal((rows, columns)) / np.sqrt(columns)
        return normal.astype(np.float16)

    ones = np.ones(WIDTH, np.float32)
    output = matrix(len(tokens), WIDTH)
    output[unlikely(tokens)] = 0
    writer.add_tensor("token_embd.weight", matrix(len(tokens), WIDTH))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(WIDTH, WIDTH))
        for name, rows, columns in (
            ("ffn_gate", FEED_FORWARD, WIDTH),
            ("ffn_up", FEED_FORWARD, WIDTH),
            ("ffn_down", WIDTH, FEED_FORWARD),
        ):
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(rows, columns))
