"""Tiny GGUF files of every shape the server has to meet: random weights from fixed seeds, made on demand.

They answer nonsense, but the same nonsense each time, and load in milliseconds. Sizes are chosen
so that attention, state and projections matter: another prompt gives another answer.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

N_EMBD = 64
N_HEAD = 4
N_FF = 128
N_EXPERT = 4
N_LAYER = 2
N_CTX_TRAIN = 2048
BERT_CTX = 64  # positions the encoder has learned; beyond them it has no row to look up
SWA_WINDOW = 32
IMAGE_SIZE = 32
PATCH_SIZE = 8
IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2

_BOS, _EOS = 1, 2
_FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_REPOSITORY = (*_FIM, "<|repo_name|>", "<|file_sep|>")
_THINK = ("<think>", "</think>", "<|channel|>", "<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
_SLICES = ("<fake_token_around_image>", "<global-img>", "\n\n")
_CHAT = ("<|im_start|>", "<|im_end|>")
_WORDS = ("the", "a", "one", "two", "image", "llama", "hello", "world", "user", "assistant", "def", "return")
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Models:
    """Files under one folder; each is written at the first call that asks for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def llama(self) -> Path:
        """A decoder with byte tokens, a chat template and no fill-in-middle tokens."""
        return self._once("llama.gguf", _write_llama)

    def templated(self, template: str) -> Path:
        """The same with another chat template in its metadata."""
        name = f"llama-{hashlib.sha256(template.encode()).hexdigest()[:12]}.gguf"
        return self._once(name, lambda path: _write_llama(path, template=template))

    def thinking(self, template: str) -> Path:
        """The same with control tokens around thoughts."""
        name = f"thinking-{hashlib.sha256(template.encode()).hexdigest()[:12]}.gguf"
        return self._once(name, lambda path: _write_llama(path, _THINK, template))

    def experts(self) -> Path:
        """The same with N_EXPERT experts in each layer, of which it uses 2. Its cache can have all quantized types."""
        return self._once("experts.gguf", lambda path: _write_llama(path, experts=True))

    def fim(self) -> Path:
        """The same with fill-in-middle tokens."""
        return self._once("fim.gguf", lambda path: _write_llama(path, _FIM))

    def fim_of_repositories(self) -> Path:
        """The same with the tokens before a repository and before each file of it."""
        return self._once("fim-repository.gguf", lambda path: _write_llama(path, _REPOSITORY))

    def phi(self) -> Path:
        """A decoder whose special tokens take the white space after them, and whose texts begin with a space."""
        return self._once("phi-3.gguf", _write_phi)

    def mask(self) -> Path:
        """A decoder of byte pairs whose token <mask> takes the white space before it."""
        return self._once("mask.gguf", _write_mask)

    def idefics3(self) -> Path:
        """The same with the tokens that stand around slices of an image."""
        return self._once("idefics3.gguf", lambda path: _write_llama(path, _SLICES))

    def bert(self, pooling: str = "mean") -> Path:
        """An encoder of at most BERT_CTX tokens; `pooling` is mean, cls or none in its metadata."""
        return self._once(f"bert-{pooling}.gguf", lambda path: _write_bert(path, pooling))

    def reranker(self, template: str = "") -> Path:
        """An encoder with a head that scores a query and a document. `template` is that for reranking."""
        name = f"bert-rank-{hashlib.sha256(template.encode()).hexdigest()[:12]}.gguf"
        return self._once(name, lambda path: _write_bert(path, "rank", template))

    def mamba(self) -> Path:
        """A recurrent decoder."""
        return self._once("mamba.gguf", _write_mamba)

    def jamba(self) -> Path:
        """A hybrid decoder: one recurrent layer, one with attention."""
        return self._once("jamba.gguf", _write_jamba)

    def gemma2(self) -> Path:
        """A decoder whose first layer of two sees SWA_WINDOW tokens."""
        return self._once("gemma2.gguf", _write_gemma2)

    def t5(self) -> Path:
        """An encoder with a decoder, which reads what the encoder made of a prompt."""
        return self._once("t5.gguf", _write_t5)

    def qwen2vl(self) -> Path:
        """A decoder with M-RoPE: an image takes fewer positions than cells."""
        return self._once("qwen2vl.gguf", _write_qwen2vl)

    def lora(self, seed: int = 7) -> Path:
        """An adapter for `llama` and `fim`."""
        return self._once(f"lora-{seed}.gguf", lambda path: _write_lora(path, seed, N_EMBD, N_EMBD, N_LAYER))

    def lora_for(self, base: Path, seed: int = 7) -> Path:
        """An adapter for the attention of any llama model."""
        reader = gguf.GGUFReader(base)
        shapes = {tensor.name: [int(n) for n in tensor.shape] for tensor in reader.tensors}
        layers = sum(name.endswith("attn_q.weight") for name in shapes)
        n_in, n_out = shapes["blk.0.attn_q.weight"]
        return self._once(
            f"lora-{base.stem}-{seed}.gguf", lambda path: _write_lora(path, seed, n_in, n_out, layers, scale=0.2)
        )

    def lora_other_arch(self) -> Path:
        """An adapter for another architecture."""
        return self._once("lora-gemma2.gguf", lambda path: _write_lora(path, 7, N_EMBD, N_EMBD, 2, arch="gemma2"))

    def lora_other_shape(self) -> Path:
        """An adapter for a wider llama."""
        return self._once("lora-wide.gguf", lambda path: _write_lora(path, 7, 2 * N_EMBD, 2 * N_EMBD, N_LAYER))

    def projector(self) -> Path:
        """A LLaVA projector for `llama`: every image takes IMAGE_TOKENS cells."""
        return self._once("mmproj.gguf", lambda path: _write_projector(path, N_EMBD))

    def projector_of(self, name: str) -> Path:
        """The projector that belongs to the model of that name."""
        found: Path = self.projector() if name == "llama" else getattr(self, f"{name}_projector")()
        return found

    def projector_other_width(self) -> Path:
        """A projector for a wider model."""
        return self._once("mmproj-wide.gguf", lambda path: _write_projector(path, 2 * N_EMBD))

    def slow_projector(self) -> Path:
        """A projector for `llama` that takes seconds over an image, and 1,024 cells."""
        return self._once("mmproj-slow.gguf", lambda path: _write_projector(path, N_EMBD, layers=80, size=256))

    def idefics3_projector(self) -> Path:
        """The projector of `idefics3`: a large image becomes an overview and slices."""
        return self._once("mmproj-slices.gguf", lambda path: _write_idefics3(path, N_EMBD))

    def qwen2vl_projector(self) -> Path:
        """The projector of `qwen2vl`."""
        return self._once("mmproj-qwen2vl.gguf", lambda path: _write_qwen2vl_projector(path, N_EMBD))

    def unknown(self) -> Path:
        """A whole file of an architecture that nobody knows: it cannot be loaded."""
        return self._once("unknown.gguf", _write_unknown)

    def truncated(self, whole: Path) -> Path:
        """The first two thirds of a file."""
        data = whole.read_bytes()
        return self._once(f"truncated-{whole.name}", lambda path: _write_bytes(path, data[: len(data) * 2 // 3]))

    def headless(self, whole: Path) -> Path:
        """The first 100 bytes of a file: the metadata ends in the middle."""
        data = whole.read_bytes()
        return self._once(f"headless-{whole.name}", lambda path: _write_bytes(path, data[:100]))

    def garbage(self) -> Path:
        """Random bytes."""
        return self._once("garbage.gguf", lambda path: _write_bytes(path, np.random.default_rng(0).bytes(100_000)))

    def empty(self) -> Path:
        """Nothing."""
        return self._once("empty.gguf", lambda path: _write_bytes(path, b""))

    def _once(self, name: str, write: Callable[[Path], None]) -> Path:
        path = self._folder / name
        if not path.exists():
            scratch = path.with_suffix(".part")
            write(scratch)
            scratch.rename(path)
        return path


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


class _Weights:
    """Random tensors of one file, in the order they are asked for."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self._writer = writer
        self._random = np.random.default_rng(seed)

    def matrix(self, name: str, *shape: int, scale: float | None = None) -> None:
        """Normal numbers; `shape` as numpy has it (rows first), `scale` defaults to 1 / sqrt(columns)."""
        deviation = shape[-1] ** -0.5 if scale is None else scale
        self.put(name, self._random.normal(0.0, deviation, shape).astype(np.float32))

    def norm(self, name: str, size: int) -> None:
        """Factors around one."""
        self.put(f"{name}.weight", (1.0 + self._random.normal(0.0, 0.1, size)).astype(np.float32))

    def norm_and_bias(self, name: str, size: int) -> None:
        """A layer norm."""
        self.norm(name, size)
        self.matrix(f"{name}.bias", size, scale=0.1)

    def dense(self, name: str, n_out: int, n_in: int) -> None:
        """A matrix with a bias."""
        self.matrix(f"{name}.weight", n_out, n_in)
        self.matrix(f"{name}.bias", n_out, scale=0.1)

    def put(self, name: str, data: Array) -> None:
        """One tensor."""
        self._writer.add_tensor(name, data)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _decoder(path: Path, arch: str, *, n_layer: int = N_LAYER, name: str = "") -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(name or f"tiny {arch}")
    writer.add_context_length(N_CTX_TRAIN)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(N_FF)
    writer.add_layer_norm_rms_eps(1e-5)
    return writer


def _attention(writer: gguf.GGUFWriter, n_head: int = N_HEAD) -> None:
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head)
    writer.add_rope_dimension_count(N_EMBD // n_head)


def _byte_vocab(writer: gguf.GGUFWriter, extra: Sequence[str] = (), template: str = _TEMPLATE) -> int:
    """A SentencePiece vocabulary: special tokens, all bytes, letters and a few words. Returns its size."""
    tokens = ["<unk>", "<s>", "</s>"]
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [gguf.TokenType.BYTE] * 256
    letters = [chr(code) for code in range(0x20, 0x7F) if chr(code) != " "]
    merged = sorted(
        {word[:n] for word in _WORDS for n in range(2, len(word) + 1)}, key=lambda piece: (len(piece), piece)
    )
    pieces = ["▁", *letters, *merged]
    tokens += pieces
    types += [gguf.TokenType.NORMAL] * len(pieces)
    specials = [*_CHAT, *extra]
    tokens += specials
    types += [gguf.TokenType.CONTROL] * len(specials)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([float(len(token)) for token in tokens])
    writer.add_token_types(types)
    writer.add_bos_token_id(_BOS)
    writer.add_eos_token_id(_EOS)
    writer.add_unk_token_id(0)
    writer.add_eot_token_id(tokens.index(_CHAT[1]))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)
    writer.add_vocab_size(len(tokens))
    if extra in (_FIM, _REPOSITORY):
        for name, token in zip(("pre", "suf", "mid", "rep", "sep"), extra, strict=False):
            writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", tokens.index(token))
    return len(tokens)


def _write_phi(path: Path) -> None:
    writer = _decoder(path, "llama", name="tiny phi-3")
    _attention(writer)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abs", "▁a"]
    tokens += ["<|endoftext|>", "<|end|>", "<|user|>", "▁▁", "▁▁▁▁", "\n\n", "<tool>"]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.BYTE] * 256, *[kind.NORMAL] * 5]
    types += [*[kind.CONTROL] * 3, *[kind.USER_DEFINED] * 4]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    _special_ids(writer)
    writer.add_add_eos_token(True)
    writer.add_add_space_prefix(True)
    writer.add_vocab_size(len(tokens))
    _finish(writer)


def _write_mask(path: Path) -> None:
    writer = _decoder(path, "llama")
    _attention(writer)
    letters = [chr(code) for code in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))]
    tokens = ["<unk>", "<s>", "</s>", *letters, "ab", "<mask>", "<|im_start|>", "<extra>"]
    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL, *[kind.NORMAL] * (len(letters) + 1)]
    types += [kind.CONTROL, kind.CONTROL, kind.USER_DEFINED]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("jina-v2-de")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])
    _special_ids(writer)
    writer.add_vocab_size(len(tokens))
    _finish(writer)


def _special_ids(writer: gguf.GGUFWriter) -> None:
    writer.add_bos_token_id(_BOS)
    writer.add_eos_token_id(_EOS)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)


def _write_llama(path: Path, extra: Sequence[str] = (), template: str = _TEMPLATE, *, experts: bool = False) -> None:
    writer = _decoder(path, "llama")
    if experts:
        writer.add_expert_count(N_EXPERT)
        writer.add_expert_used_count(2)
    _attention(writer, 1 if experts else N_HEAD)
    n_vocab = _byte_vocab(writer, extra, template)
    weights = _Weights(writer, 1)
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, scale=1.0)
    weights.norm("output_norm", N_EMBD)
    weights.matrix("output.weight", n_vocab, N_EMBD, scale=0.5)
    for layer in range(N_LAYER):
        _llama_layer(weights, f"blk.{layer}", experts=experts)
    _finish(writer)


def _llama_layer(weights: _Weights, at: str, *, experts: bool = False) -> None:
    weights.norm(f"{at}.attn_norm", N_EMBD)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        weights.matrix(f"{at}.{name}.weight", N_EMBD, N_EMBD, scale=0.25)
    if experts:
        _experts(weights, at)
    else:
        _gated_ffn(weights, at)


def _experts(weights: _Weights, at: str) -> None:
    weights.norm(f"{at}.ffn_norm", N_EMBD)
    weights.matrix(f"{at}.ffn_gate_inp.weight", N_EXPERT, N_EMBD)
    weights.matrix(f"{at}.ffn_gate_exps.weight", N_EXPERT, N_FF, N_EMBD)
    weights.matrix(f"{at}.ffn_up_exps.weight", N_EXPERT, N_FF, N_EMBD)
    weights.matrix(f"{at}.ffn_down_exps.weight", N_EXPERT, N_EMBD, N_FF)


def _gated_ffn(weights: _Weights, at: str) -> None:
    weights.norm(f"{at}.ffn_norm", N_EMBD)
    weights.matrix(f"{at}.ffn_gate.weight", N_FF, N_EMBD)
    weights.matrix(f"{at}.ffn_up.weight", N_FF, N_EMBD)
    weights.matrix(f"{at}.ffn_down.weight", N_EMBD, N_FF)


def _write_qwen2vl(path: Path) -> None:
    writer = _decoder(path, "qwen2vl")
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD)
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    n_vocab = _byte_vocab(writer, ("<|vision_start|>", "<|vision_end|>"))
    weights = _Weights(writer, 2)
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, scale=1.0)
    weights.norm("output_norm", N_EMBD)
    weights.matrix("output.weight", n_vocab, N_EMBD, scale=0.5)
    for layer in range(N_LAYER):
        at = f"blk.{layer}"
        weights.norm(f"{at}.attn_norm", N_EMBD)
        for name in ("attn_q", "attn_k", "attn_v"):
            weights.dense(f"{at}.{name}", N_EMBD, N_EMBD)
        weights.matrix(f"{at}.attn_output.weight", N_EMBD, N_EMBD)
        _gated_ffn(weights, at)
    _finish(writer)


def _write_gemma2(path: Path) -> None:
    writer = _decoder(path, "gemma2")
    _attention(writer)
    writer.add_key_length(N_EMBD // N_HEAD)
    writer.add_value_length(N_EMBD // N_HEAD)
    writer.add_sliding_window(SWA_WINDOW)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)
    n_vocab = _byte_vocab(writer)
    weights = _Weights(writer, 3)
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, scale=0.5)
    weights.norm("output_norm", N_EMBD)
    for layer in range(N_LAYER):
        at = f"blk.{layer}"
        _llama_layer(weights, at)
        weights.norm(f"{at}.post_attention_norm", N_EMBD)
        weights.norm(f"{at}.post_ffw_norm", N_EMBD)
    _finish(writer)


_STATE, _RANK, _KERNEL = 16, 4, 4


def _recurrence(writer: gguf.GGUFWriter) -> None:
    writer.add_ssm_conv_kernel(_KERNEL)
    writer.add_ssm_inner_size(2 * N_EMBD)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)


def _mamba_layer(weights: _Weights, at: str) -> None:
    inner = 2 * N_EMBD
    weights.norm(f"{at}.attn_norm", N_EMBD)
    weights.matrix(f"{at}.ssm_in.weight", 2 * inner, N_EMBD)
    weights.matrix(f"{at}.ssm_conv1d.weight", inner, _KERNEL)
    weights.matrix(f"{at}.ssm_conv1d.bias", inner, scale=0.1)
    weights.matrix(f"{at}.ssm_x.weight", _RANK + 2 * _STATE, inner)
    weights.dense(f"{at}.ssm_dt", inner, _RANK)
    # -exp(A_log): how fast each state forgets
    weights.put(f"{at}.ssm_a", np.tile(-np.linspace(0.05, 1.0, _STATE, dtype=np.float32), (inner, 1)))
    weights.put(f"{at}.ssm_d", np.ones(inner, np.float32))
    weights.matrix(f"{at}.ssm_out.weight", N_EMBD, inner)


def _write_mamba(path: Path) -> None:
    writer = _decoder(path, "mamba")
    writer.add_head_count(0)
    _recurrence(writer)
    n_vocab = _byte_vocab(writer)
    weights = _Weights(writer, 4)
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, scale=0.5)
    weights.norm("output_norm", N_EMBD)
    for layer in range(N_LAYER):
        _mamba_layer(weights, f"blk.{layer}")
    _finish(writer)


def _write_jamba(path: Path) -> None:
    writer = _decoder(path, "jamba")
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv([0, N_HEAD])
    _recurrence(writer)
    n_vocab = _byte_vocab(writer)
    weights = _Weights(writer, 5)
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, scale=0.5)
    weights.norm("output_norm", N_EMBD)
    _mamba_layer(weights, "blk.0")
    weights.norm("blk.0.ssm_dt_norm", _RANK)
    weights.norm("blk.0.ssm_b_norm", _STATE)
    weights.norm("blk.0.ssm_c_norm", _STATE)
    _gated_ffn(weights, "blk.0")
    _llama_layer(weights, "blk.1")
    _finish(writer)


def _write_bert(path: Path, pooling: str, rerank: str = "") -> None:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny bert")
    writer.add_context_length(BERT_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    if rerank:
        writer.add_string("tokenizer.chat_template.rerank", rerank)
    n_vocab = _word_vocab(writer)
    weights = _Weights(writer, 6)
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, scale=1.0)
    weights.matrix("token_types.weight", 2, N_EMBD, scale=0.1)
    weights.matrix("position_embd.weight", BERT_CTX, N_EMBD, scale=0.3)
    weights.norm_and_bias("token_embd_norm", N_EMBD)
    for layer in range(N_LAYER):
        at = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            weights.dense(f"{at}.{name}", N_EMBD, N_EMBD)
        weights.norm_and_bias(f"{at}.attn_output_norm", N_EMBD)
        weights.dense(f"{at}.ffn_up", N_FF, N_EMBD)
        weights.dense(f"{at}.ffn_down", N_EMBD, N_FF)
        weights.norm_and_bias(f"{at}.layer_output_norm", N_EMBD)
    if pooling == "rank":
        weights.dense("cls", N_EMBD, N_EMBD)
        weights.dense("cls.output", 1, N_EMBD)
    _finish(writer)


def _write_unknown(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "no-such-architecture")
    _Weights(writer, 12).matrix("token_embd.weight", 8, N_EMBD)
    _finish(writer)


def _write_t5(path: Path) -> None:
    writer = _decoder(path, "t5")
    _attention(writer)
    writer.add_relative_attn_buckets_count(8)
    writer.add_decoder_start_token_id(_BOS)
    n_vocab = _byte_vocab(writer)
    weights = _Weights(writer, 11)
    weights.matrix("token_embd.weight", n_vocab, N_EMBD, scale=1.0)
    for side, attentions in (("enc", ("attn",)), ("dec", ("attn", "cross_attn"))):
        weights.norm(f"{side}.output_norm", N_EMBD)
        for layer in range(N_LAYER):
            at = f"{side}.blk.{layer}"
            weights.matrix(f"{at}.attn_rel_b.weight", 8, N_HEAD)
            for attention in attentions:
                weights.norm(f"{at}.{attention}_norm", N_EMBD)
                for part in "qkvo":
                    weights.matrix(f"{at}.{attention}_{part}.weight", N_EMBD, N_EMBD)
            weights.norm(f"{at}.ffn_norm", N_EMBD)
            weights.matrix(f"{at}.ffn_up.weight", N_FF, N_EMBD)
            weights.matrix(f"{at}.ffn_down.weight", N_EMBD, N_FF)
    _finish(writer)


def _word_vocab(writer: gguf.GGUFWriter) -> int:
    """A WordPiece vocabulary: letters and digits at the start of a word (▁) and inside it."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    tokens = [
        *specials,
        *(f"▁{letter}" for letter in letters),
        *letters,
        *(f"▁{word}" for word in _WORDS if len(word) > 1),
    ]
    types = [gguf.TokenType.CONTROL] * len(specials) + [gguf.TokenType.NORMAL] * (len(tokens) - len(specials))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)
    writer.add_vocab_size(len(tokens))
    return len(tokens)


def _write_lora(
    path: Path, seed: int, n_in: int, n_out: int, n_layer: int, *, arch: str = "llama", scale: float = 0.3
) -> None:
    rank = 4
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    weights = _Weights(writer, seed)
    for layer in range(n_layer):
        weights.matrix(f"blk.{layer}.attn_q.weight.lora_a", rank, n_in, scale=scale)
        weights.matrix(f"blk.{layer}.attn_q.weight.lora_b", n_out, rank, scale=scale)
        weights.matrix(f"blk.{layer}.attn_output.weight.lora_a", rank, n_out, scale=scale)
        weights.matrix(f"blk.{layer}.attn_output.weight.lora_b", n_in, rank, scale=scale)
    _finish(writer)


def _vision(path: Path, projector: str, n_out: int, *, layers: int, size: int = IMAGE_SIZE) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(projector)
    writer.add_vision_image_size(size)
    writer.add_vision_patch_size(PATCH_SIZE)
    writer.add_vision_embedding_length(N_EMBD)
    writer.add_vision_feed_forward_length(N_FF)
    writer.add_vision_block_count(layers)
    writer.add_vision_head_count(N_HEAD)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_projection_dim(n_out)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    return writer


def _patches(weights: _Weights, *, positions: int) -> None:
    weights.matrix("v.patch_embd.weight", N_EMBD, 3, PATCH_SIZE, PATCH_SIZE, scale=(3 * PATCH_SIZE**2) ** -0.5)
    weights.matrix("v.position_embd.weight", positions, N_EMBD, scale=0.3)


def _vision_layers(weights: _Weights, count: int) -> None:
    for layer in range(count):
        at = f"v.blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            weights.dense(f"{at}.{name}", N_EMBD, N_EMBD)
        weights.norm_and_bias(f"{at}.ln1", N_EMBD)
        weights.norm_and_bias(f"{at}.ln2", N_EMBD)
        weights.dense(f"{at}.ffn_up", N_FF, N_EMBD)
        weights.dense(f"{at}.ffn_down", N_EMBD, N_FF)


def _write_projector(path: Path, n_out: int, *, layers: int = 3, size: int = IMAGE_SIZE) -> None:
    writer = _vision(path, "mlp", n_out, layers=layers, size=size)
    weights = _Weights(writer, 8)
    _patches(weights, positions=(size // PATCH_SIZE) ** 2)
    _vision_layers(weights, layers)
    weights.dense("mm.0", n_out, N_EMBD)
    weights.dense("mm.2", n_out, n_out)
    _finish(writer)


_MERGE = 2  # idefics3: patches that become one token, along each side


def _write_idefics3(path: Path, n_out: int) -> None:
    writer = _vision(path, "idefics3", n_out, layers=2)
    writer.add_vision_use_gelu(True)
    writer.add_vision_projector_scale_factor(_MERGE)
    writer.add_uint32("clip.vision.preproc_image_size", 2 * IMAGE_SIZE)
    weights = _Weights(writer, 9)
    _patches(weights, positions=IMAGE_TOKENS)
    _vision_layers(weights, 2)
    weights.norm_and_bias("v.post_ln", N_EMBD)
    weights.matrix("mm.model.fc.weight", n_out, N_EMBD * _MERGE**2)
    _finish(writer)


def _write_qwen2vl_projector(path: Path, n_out: int) -> None:
    writer = _vision(path, "qwen2vl_merger", n_out, layers=2)
    writer.add_vision_use_silu(True)
    weights: Any = _Weights(writer, 10)
    weights.matrix("v.patch_embd.weight", N_EMBD, 3, PATCH_SIZE, PATCH_SIZE, scale=0.2)
    weights.matrix("v.patch_embd.weight.1", N_EMBD, 3, PATCH_SIZE, PATCH_SIZE, scale=0.2)
    _vision_layers(weights, 2)
    weights.norm_and_bias("v.post_ln", N_EMBD)
    weights.dense("mm.0", 4 * N_EMBD, 4 * N_EMBD)
    weights.dense("mm.2", n_out, 4 * N_EMBD)
    _finish(writer)
