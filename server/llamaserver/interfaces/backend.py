"""The engine's view of a model library: protocols only.

`llama/backend.py` implements them over llama.cpp, `tests/support/engine/toy.py` without weights. A Vocab
may be used from any thread; a Backend belongs to the engine thread, but for `abort`.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .output import TokenProbs
from .params import Media, Prompt, SamplingParams

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


class Vocab(Protocol):
    """Token ids to bytes and back. Thread-safe."""

    n_vocab: int
    bos: int  # -1 when the model has none; likewise below
    eos: int
    nl: int
    fim_pre: int
    fim_suf: int
    fim_mid: int
    add_bos: bool
    eog: frozenset[int]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokenize; `add_special` lets the model's own rules add BOS/EOS."""

    def piece(self, token: int) -> bytes:
        """Bytes of one token, special tokens rendered as empty. 0 <= token < n_vocab."""

    def special_piece(self, token: int) -> bytes:
        """Bytes of one token, special tokens rendered as their text."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of ids (special tokens rendered), invalid UTF-8 replaced."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about the loaded model and context that do not change."""

    path: str
    description: str
    architecture: str
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_params: int
    size: int  # bytes
    vocab_type: int
    n_ctx: int  # cells in all
    n_seq_max: int
    n_batch: int
    n_ubatch: int
    unified: bool
    can_shift: bool
    partial_reuse: bool  # False on recurrent and hybrid models: reuse only at the exact position
    causal: bool  # False for encoders: the prompt must fit one ubatch and nothing is generated
    pooling: str  # none, mean, cls, last, rank
    chat_template: str  # Jinja text from the metadata, "" when absent
    metadata: dict[str, str] = field(default_factory=dict)
    device: str = "CPU"
    layers_total: int = 0
    layers_offloaded: int = 0
    n_lora: int = 0
    modalities: frozenset[str] = frozenset()  # "vision", "audio"
    system_info: str = ""
    weights_in: tuple[str, ...] = ()  # kinds of memory, such as CPU_REPACK for weights in another order, or AMX
    n_swa: int = 0  # tokens that a sliding window sees, 0 without one
    flash_attn: str = ""  # on or off, as it was in the end
    state_version: int = 0  # of what state_get gives; another library's version does not fit


class Status(IntEnum):
    """What decode says, in llama.cpp's own numbers."""

    OK = 0
    NO_ROOM = 1  # nothing changed; free cells or send less
    ABORTED = 2  # re-read positions
    INVALID = -1
    FATAL = -2


@dataclass(slots=True)
class Batch:
    """Rows for one decode: parallel lists of token, position, sequence and whether logits are wanted."""

    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    positions: "array[int]" = field(default_factory=lambda: array("i"))
    seqs: "array[int]" = field(default_factory=lambda: array("i"))
    wants: "array[int]" = field(default_factory=lambda: array("b"))

    def add(self, token: int, position: int, seq: int, want: bool) -> int:
        """Append one row; return its index."""
        self.tokens.append(token)
        self.positions.append(position)
        self.seqs.append(seq)
        self.wants.append(want)
        return len(self.tokens) - 1

    def __len__(self) -> int:
        return len(self.tokens)


class Sampler(Protocol):
    """The sampling state of one request. Made off the engine thread, then used on it alone."""

    def prime(self, prompt: Sequence[int]) -> None:
        """Tell it the prompt's token ids (for penalties), once, before the first sample."""

    def sample(self, logits: FloatArray) -> tuple[int, TokenProbs | None]:
        """Choose the next token from a row of n_vocab logits and account for it.

        `logits` may be overwritten. Raises EngineFailure when no token is allowed.
        """

    def close(self) -> None:
        """Free native memory; idempotent."""


class SamplerFactory(Protocol):
    """Compiles a request's sampling parameters. Thread-safe; may take long for large grammars."""

    def __call__(self, params: SamplingParams, n_ctx: int) -> Sampler:
        """Build a sampler; raises InvalidRequest for a grammar that does not parse."""


class BuiltinTemplates(Protocol):
    """The chat formats that a library knows by name. Thread-safe, and needs no model."""

    names: frozenset[str]

    def render(self, name: str, messages: Sequence[tuple[str, str]], *, add_generation_prompt: bool) -> str:
        """Render (role, content) pairs; ValueError for a name that is not in `names`."""


class MediaTokenizer(Protocol):
    """Turns text with images into a prompt. Thread-safe."""

    def build(self, parts: Sequence[str | bytes], *, add_special: bool) -> Prompt:
        """Tokenize text parts (str) and encoded images (bytes), in order.

        Raises InvalidRequest for bytes that are no image the projector understands.
        """


class ParsedState(Protocol):
    """A sequence's state that can be cut."""

    length: int  # keys that can be cut, from key 0 on

    def rows(self, start: int, end: int) -> int:
        """For how many of the last keys of a range every layer has its rows."""

    def cut(self, start: int, end: int) -> ByteArray:
        """One range, as `StateCodec.join` takes it."""


class StateCodec(Protocol):
    """Cuts and joins serialised states. Thread-safe."""

    def parse(self, state: ByteArray) -> ParsedState:
        """Understand a state; ValueError for one that cannot be cut."""

    def join(self, parts: Sequence[tuple[ByteArray, int, int]]) -> ByteArray:
        """A state from (part, its keys, how many of them to use), in order; ValueError when they do not fit."""


class Backend(Protocol):
    """Model and context. Only `abort` may be called from another thread."""

    info: ModelInfo
    media: MediaTokenizer | None
    make_sampler: SamplerFactory
    codec: StateCodec | None  # None where states cannot be cut

    @property
    def vocab(self) -> Vocab:
        """The model's vocabulary."""

    def decode(self, batch: Batch, *, embeddings: bool = False) -> Status:
        """Evaluate the rows; their results are read by row index until the next decode."""

    def decode_media(self, media: Media, position: int, seq: int) -> Status:
        """Evaluate one image at `position` of `seq`; its last row has logits."""

    def logits(self, row: int) -> FloatArray:
        """The logits of a row that wanted them: a writable view of shape (n_vocab,). Row -1 is the last."""

    def embeddings(self, seq: int, rows: Sequence[int]) -> FloatArray:
        """Vectors of shape (n, n_embd): one pooled vector of `seq`, or one a row without pooling."""

    def abort(self, on: bool) -> None:
        """Raise or lower the flag that makes a running decode return ABORTED. Any thread."""

    def seq_rm(self, seq: int, start: int, end: int = -1) -> bool:
        """Drop positions [start, end) of `seq`; False when the memory cannot (drop it whole then)."""

    def seq_cp(self, source: int, target: int, end: int) -> None:
        """Make empty `target` hold positions [0, end) of `source`."""

    def seq_add(self, seq: int, start: int, end: int, delta: int) -> None:
        """Shift positions [start, end) by delta."""

    def seq_div(self, seq: int, start: int, end: int, divisor: int) -> None:
        """Divide positions [start, end)."""

    def pos_max(self, seq: int) -> int:
        """Largest position of `seq`, -1 when empty."""

    def pos_min(self, seq: int) -> int:
        """Smallest position from which on `seq` is whole: a sliding window's cache may have dropped its start."""

    def state_get(self, seq: int) -> bytes:
        """Serialise the KV state of `seq` (not between a pending shift or copy and a decode)."""

    def state_set(self, seq: int, data: bytes) -> bool:
        """Restore what state_get gave; False when it does not fit."""

    def state_export(self, seq: int) -> ByteArray:
        """As state_get, in the form that `codec` cuts. Any thread may hold the result."""

    def state_import(self, seq: int, data: ByteArray) -> bool:
        """Restore what state_export gave or `codec` joined; False when it does not fit, `seq` is empty then."""

    def set_lora(self, scales: tuple[float, ...]) -> None:
        """Make these adapter scales those of the next decode."""

    def close(self) -> None:
        """Free context and model."""
