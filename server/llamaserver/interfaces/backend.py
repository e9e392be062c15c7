"""The engine's view of a model library: protocols only.

`llama/backend.py` implements them with llama.cpp. `tests/support/engine/toy.py` implements them without
weights. Any thread may use a Vocab. Only the engine thread may use a Backend. `abort` is the exception.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..files import Bytes
from .output import TokenProbs
from .params import Media, Prompt, SamplingParams

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
SCORED_ROWS = 32  # rows of one prompt that can have logits in one decode


def never() -> bool:
    """For a call that nobody cancels."""
    return False


class Vocab(Protocol):
    """Converts token ids to bytes and back. Thread-safe."""

    n_vocab: int
    bos: int  # -1 if the model has none, as with the other ids
    eos: int
    eot: int
    nl: int
    sep: int
    fim_pre: int
    fim_suf: int
    fim_mid: int
    fim_rep: int  # before the name of a repository
    fim_sep: int  # before each file of it
    add_bos: bool
    add_eos: bool
    add_sep: bool
    eog: frozenset[int]

    def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, cancelled: Callable[[], bool] = never
    ) -> list[int]:
        """Tokenize a text. With `add_special`, the model's own rules add BOS and EOS.

        The time grows with the length of the text. Raises CancelledError soon after `cancelled` returns True.
        """

    def piece(self, token: int) -> bytes:
        """Bytes of one token. A special token has no bytes. 0 <= token < n_vocab."""

    def special_piece(self, token: int) -> bytes:
        """Bytes of one token. A special token gives its text."""

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of the ids, with the text of special tokens. Invalid UTF-8 is replaced."""

    def __hash__(self) -> int:
        """What was found out about a vocabulary is kept by it."""


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
    n_ctx: int  # cells of all sequences together
    n_seq_max: int
    n_batch: int
    n_ubatch: int
    unified: bool
    can_shift: bool
    partial_reuse: bool  # False on recurrent and hybrid models: these reuse a state only at its exact position
    causal: bool  # False for encoders: the prompt must fit one ubatch, and no text is generated
    pooling: str  # none, mean, cls, last, rank
    chat_template: str  # Jinja text from the metadata, "" when absent
    metadata: dict[str, str] = field(default_factory=dict)
    device: str = "CPU"
    layers_total: int = 0
    layers_offloaded: int = 0
    n_lora: int = 0
    modalities: frozenset[str] = frozenset()  # "vision", "audio"
    system_info: str = ""
    file_type: str = ""  # the quantization of most weights, in llama.cpp's words
    weights_in: tuple[str, ...] = ()  # kinds of memory, such as CPU_REPACK for weights in another order, or AMX
    n_swa: int = 0  # size of the sliding window in tokens, 0 without one
    flash_attn: str = ""  # on or off: the value in use, never "auto"
    state_version: int = 0  # format of the states of state_get. A state of another version does not fit


class Status(IntEnum):
    """The result of decode, in llama.cpp's own numbers."""

    OK = 0
    NO_ROOM = 1  # nothing has changed. The caller frees cells or sends fewer rows
    ABORTED = 2  # the caller must read the positions again
    INVALID = -1
    FATAL = -2


@dataclass(slots=True)
class Batch:
    """The rows of one decode: parallel lists of tokens, positions, sequences and flags for logits."""

    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    positions: "array[int]" = field(default_factory=lambda: array("i"))
    seqs: "array[int]" = field(default_factory=lambda: array("i"))
    wants: "array[int]" = field(default_factory=lambda: array("b"))

    def add(self, token: int, position: int, seq: int, want: bool) -> int:
        """Append one row and return its index."""
        self.tokens.append(token)
        self.positions.append(position)
        self.seqs.append(seq)
        self.wants.append(want)
        return len(self.tokens) - 1

    def __len__(self) -> int:
        return len(self.tokens)


class AnswerCompleteError(Exception):
    """The answer has all that its grammar demands, and no token can follow, not even one that ends it."""


class Sampler(Protocol):
    """The sampling state of one request. Another thread makes it. Then only the engine thread uses it.

    It takes little memory until `prime` or the first `sample`.
    """

    @property
    def reasoning_tokens(self) -> int:
        """The number of chosen tokens that belong to thoughts, with their marks."""

    def end_thought(self) -> bool:
        """End the thought with the next token. False if none lasts. Any thread."""

    def fresh(self, seed: int) -> "Sampler":
        """Another sampler with the same parameters, except for the seed. Any thread, before the first sample."""

    def prime(self, prompt: Sequence[int]) -> None:
        """Give the prompt's token ids to the penalties. Call this once, before the first sample."""

    def sample(self, logits: FloatArray) -> tuple[int, TokenProbs | None]:
        """Choose the next token from a row of n_vocab logits, and add it to the sampling state.

        The call may overwrite `logits`. Raises AnswerCompleteError when the answer ends without a token, and
        EngineFailure when no token is allowed.
        """

    def score(self, logits: FloatArray, token: int) -> TokenProbs:
        """How likely a token of the prompt is by a row of n_vocab logits, and the `n_probs` most likely ones.

        The call changes neither the logits nor the sampling state.
        """

    def close(self) -> None:
        """Free native memory. A second call does nothing."""


class SamplerFactory(Protocol):
    """Builds samplers from the parameters of requests. Thread-safe. A large grammar may take long."""

    def __call__(self, params: SamplingParams, n_ctx: int) -> Sampler:
        """Build a sampler.

        Raises InvalidRequest for a grammar that does not parse, Unavailable while grammars take too much memory.
        """


class BuiltinTemplates(Protocol):
    """The chat formats that a library knows by name. Thread-safe. They need no model."""

    names: frozenset[str]

    def render(self, name: str, messages: Sequence[tuple[str, str]], *, add_generation_prompt: bool) -> str:
        """Render (role, content) pairs. Raises ValueError for a name that is not in `names`."""

    def __hash__(self) -> int:
        """What was found out about a format is kept by it."""


class MediaTokenizer(Protocol):
    """Turns text with images into a prompt. Thread-safe."""

    def build(
        self,
        parts: Sequence[str | bytes],
        *,
        add_special: bool,
        decoded: dict[bytes, Any] | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Prompt:
        """Tokenize text parts (str) and encoded images (bytes), in order. Raises CancelledError as Vocab does.

        `decoded` keeps the images of one request for its next prompts. Equal images are decoded once. Raises
        InvalidRequest for bytes that are no image the projector understands, or that have too many pixels.
        """


class ParsedState(Protocol):
    """The parsed state of a sequence. It can be cut into ranges of keys."""

    length: int  # number of keys that can be cut, from key 0 on

    def rows(self, start: int, end: int) -> int:
        """The number of keys at the end of a range for which every layer has its rows."""

    def cut(self, start: int, end: int) -> ByteArray:
        """One range, in the form that `StateCodec.join` takes."""


class StateCodec(Protocol):
    """Cuts and joins serialised states. Thread-safe."""

    def parse(self, state: ByteArray) -> ParsedState:
        """Parse a state. Raises ValueError for a state that cannot be cut."""

    def join(self, parts: Sequence[tuple[ByteArray, int, int]]) -> ByteArray:
        """Join parts (part, its keys, number of keys to use) in order. Raises ValueError if they do not fit."""


class Backend(Protocol):
    """Model and context. Only the engine thread may call it. Any thread may call `abort`."""

    info: ModelInfo
    media: MediaTokenizer | None
    make_sampler: SamplerFactory
    codec: StateCodec | None  # None if states cannot be cut

    @property
    def vocab(self) -> Vocab:
        """The model's vocabulary."""

    def decode(self, batch: Batch, *, embeddings: bool = False) -> Status:
        """Evaluate the rows. The results can be read by row index until the next decode."""

    def decode_media(self, media: Media, position: int, seq: int) -> Status:
        """Evaluate one image at `position` of `seq`. Its last row has logits."""

    def logits(self, row: int) -> FloatArray:
        """The logits of a row that asked for them: a writable view of shape (n_vocab,). Row -1 is the last."""

    def embeddings(self, seq: int, rows: Sequence[int]) -> FloatArray:
        """Vectors of shape (n, n_embd): one pooled vector of `seq`, or one vector for each row without pooling."""

    def abort(self, on: bool) -> None:
        """Set or clear the flag that makes a running decode return ABORTED. Any thread."""

    def seq_rm(self, seq: int, start: int, end: int = -1) -> bool:
        """Drop positions [start, end) of `seq`. False if the memory cannot drop a part: then drop all of `seq`."""

    def seq_cp(self, source: int, target: int, end: int) -> None:
        """Copy positions [0, end) of `source` to the empty sequence `target`."""

    def seq_add(self, seq: int, start: int, end: int, delta: int) -> None:
        """Shift positions [start, end) by `delta`."""

    def seq_div(self, seq: int, start: int, end: int, divisor: int) -> None:
        """Divide positions [start, end) by `divisor`."""

    def pos_max(self, seq: int) -> int:
        """Largest position of `seq`, -1 if it is empty."""

    def pos_min(self, seq: int) -> int:
        """The smallest position from which on no cell of `seq` is missing.

        A cache with a sliding window may have dropped the cells before it.
        """

    def state_get(self, seq: int) -> Bytes:
        """Serialise the KV state of `seq`. A pending shift or copy needs a decode before this call."""

    def state_set(self, seq: int, data: Bytes) -> bool:
        """Restore a state of state_get. False if it does not fit."""

    def state_export(self, seq: int) -> ByteArray:
        """Serialise as state_get does, in the form that `codec` cuts. Any thread may hold the result."""

    def state_import(self, seq: int, data: ByteArray) -> bool:
        """Restore a state of state_export or of `codec.join`. False if it does not fit: then `seq` is empty."""

    def set_lora(self, scales: tuple[float, ...]) -> None:
        """Set the adapter scales for the next decode."""

    def close(self) -> None:
        """Free the context and the model."""
