"""A Backend without weights that is as strict as llama.cpp: where the library would abort, it raises.

Its "model" is a hash of what a sequence really holds (every token or picture, its position, the
LoRA scales it was computed with), so one wrong position, a stale copy or a cell too many changes
the text that follows.
"""

import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
from llamaserver.files import Bytes
from llamaserver.interfaces.backend import (
    SCORED_ROWS,
    Batch,
    ByteArray,
    FloatArray,
    MediaTokenizer,
    ModelInfo,
    SamplerFactory,
    StateCodec,
    Status,
)
from llamaserver.interfaces.params import Media, Prompt
from llamaserver.sampling.sampler import ChainSamplerFactory
from llamaserver.sampling.score import score

from tests.support.engine.vocab import ListVocab

N_EMBD = 4
STATE_BYTES = 24  # a key
_SPOILED = 0x5BAD  # what an aborted computation leaves behind
_LETTERS = [f"{a}{b}".encode() for a in "abcdefgh" for b in ("", " ", "x", "st")]
VOCAB = ListVocab(
    [b"<end>", b"\n", *_LETTERS, b"\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80", b"stop", b"op", "ü".encode()], eog=[0]
)


@dataclass(slots=True, eq=False)
class Cell:
    """One KV cell: `key` is the token or picture piece it was computed from, `value` what was computed."""

    key: int
    position: int
    value: int
    holders: int = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """What one decode does instead of succeeding, after `micro_batches` went well."""

    status: Status
    micro_batches: int = 0


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One call of decode: rows by sequence id, and how it ended."""

    rows: dict[int, int]
    status: Status

    @property
    def total(self) -> int:
        """Rows in all."""
        return sum(self.rows.values())


def picture_keys(data: bytes) -> list[int]:
    """The keys of a picture: one a byte, all different for different pictures."""
    return [-1 - crc32(data) - i for i in range(len(data))]


@dataclass(slots=True)
class ToyMedia:
    """Builds prompts: text by the vocabulary, a picture as one negative key a byte."""

    vocab: ListVocab

    def build(
        self,
        parts: Sequence[str | bytes],
        *,
        add_special: bool,
        decoded: dict[bytes, Any] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Prompt:
        """Text and pictures, in order."""
        keys: array[int] = array("q")
        media: list[Media] = []
        for part in parts:
            if isinstance(part, str):
                keys.extend(self.vocab.tokenize(part, add_special=add_special, parse_special=True))
            else:
                media.append(Media(len(keys), len(part), len(part), part))
                keys.extend(picture_keys(part))
        return Prompt(keys, tuple(media))


class ToyState:
    """A state of ToyBackend: 24 bytes a key."""

    def __init__(self, state: ByteArray) -> None:
        self._state = state
        self.length = len(state) // STATE_BYTES

    def rows(self, start: int, end: int) -> int:
        """All of them."""
        return end - start

    def cut(self, start: int, end: int) -> ByteArray:
        """Its bytes."""
        return self._state[start * STATE_BYTES : end * STATE_BYTES].copy()


class ToyCodec:
    """Cuts and joins states of ToyBackend."""

    def parse(self, state: ByteArray) -> ToyState:
        """Any number of keys."""
        if len(state) % STATE_BYTES:
            raise ValueError("not a state")
        return ToyState(state)

    def join(self, parts: Sequence[tuple[ByteArray, int, int]]) -> ByteArray:
        """One after the other."""
        return np.concatenate([part[: used * STATE_BYTES] for part, _, used in parts])


@dataclass(slots=True)
class _Pending:
    """What the library carries out with the next decode."""

    copies: list[tuple[Cell, Cell]] = field(default_factory=list)
    shifts: list[Cell] = field(default_factory=list)


class ToyBackend:
    """Cells, sequences and outputs of one context (protocol: interfaces/backend.py)."""

    vocab: ListVocab
    media: MediaTokenizer | None
    make_sampler: SamplerFactory
    codec: StateCodec | None

    def __init__(
        self,
        *,
        n_ctx: int = 256,
        n_seq_max: int = 4,
        n_batch: int = 64,
        n_ubatch: int = 32,
        unified: bool = False,
        can_shift: bool = True,
        partial_reuse: bool = True,
        causal: bool = True,
        pooling: str = "mean",
        n_lora: int = 0,
        vocab: ListVocab = VOCAB,
    ) -> None:
        self.vocab = vocab
        self.media = ToyMedia(vocab)
        self.make_sampler = ChainSamplerFactory(vocab)
        self.codec = ToyCodec() if partial_reuse else None
        self.info = ModelInfo(
            path="toy.gguf",
            description="toy",
            architecture="toy",
            n_vocab=vocab.n_vocab,
            n_ctx_train=n_ctx,
            n_embd=N_EMBD,
            n_params=0,
            size=0,
            vocab_type=0,
            n_ctx=n_ctx,
            n_seq_max=n_seq_max,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            unified=unified or n_seq_max == 1,
            can_shift=can_shift,
            partial_reuse=partial_reuse,
            causal=causal,
            pooling=pooling,
            chat_template="",
            n_lora=n_lora,
        )
        self.failures: dict[int, Failure] = {}  # by number of the call to decode
        self.on_decode: Callable[[Batch], None] = lambda batch: None  # runs inside decode, before its rows
        self.history: list[Evaluated] = []
        self.closed = False
        self.aborts = 0  # times the flag was raised
        self._flag = False
        self._held: list[list[Cell]] = [[] for _ in range(n_seq_max)]
        self._used = 0  # distinct cells
        self._pending = _Pending()
        self._unsettled = False
        self._lora: tuple[float, ...] = (0.0,) * n_lora
        self._states: dict[int, int] = {}  # row -> hash, of rows that wanted logits
        self._pooled: dict[int, int] = {}
        self._thread = threading.get_ident()

    # ---- what tests look at

    @property
    def cells_used(self) -> int:
        """Distinct cells in use."""
        return self._used

    @property
    def evaluated(self) -> int:
        """Rows of all successful decodes."""
        return sum(one.total for one in self.history if one.status is Status.OK)

    def keys(self, seq: int) -> list[int]:
        """What a sequence holds, in order."""
        return [cell.key for cell in self._held[seq]]

    def positions(self, seq: int) -> list[int]:
        """Where it holds it."""
        return [cell.position for cell in self._held[seq]]

    # ---- evaluation

    def decode(self, batch: Batch, *, embeddings: bool = False) -> Status:
        """Evaluate rows in micro-batches. Asserts what the library asserts or answers -1 to."""
        rows = list(zip(batch.tokens, batch.positions, batch.seqs, batch.wants, strict=True))
        self._check_thread()
        self._check_rows(rows, embeddings)
        failure = self.failures.get(len(self.history))
        self.on_decode(batch)
        self._states, self._pooled = {}, {}
        status = self._evaluate(rows, failure, embeddings)
        counts = {seq: batch.seqs.count(seq) for seq in sorted(set(batch.seqs))}
        self.history.append(Evaluated(counts, status))
        return status

    def _check_rows(self, rows: list[tuple[int, int, int, int]], embeddings: bool) -> None:
        info = self.info
        assert 0 < len(rows) <= info.n_batch, f"{len(rows)} rows, n_batch is {info.n_batch}"
        assert len(rows) <= info.n_ubatch or (info.causal and not embeddings), "does not fit one micro-batch"
        following = {seq: self.pos_max(seq) + 1 for seq in range(info.n_seq_max)}
        for token, position, seq, _ in rows:
            assert 0 <= token < info.n_vocab, f"token {token}"
            assert 0 <= seq < info.n_seq_max, f"sequence {seq}"
            assert position == following[seq], f"sequence {seq}: position {position}, not {following[seq]}"
            following[seq] += 1
        wanted = [seq for _, _, seq, want in rows if want]
        assert embeddings or len(wanted) <= max(info.n_seq_max, SCORED_ROWS), "more outputs than n_outputs_max"
        assert embeddings or len(set(wanted)) in (1, len(wanted)), "scored rows share a decode with others"

    def _evaluate(self, rows: list[tuple[int, int, int, int]], failure: Failure | None, embeddings: bool) -> Status:
        self._copy()
        if (failure and failure.status is Status.NO_ROOM) or not self._has_room([seq for _, _, seq, _ in rows]):
            return Status.NO_ROOM
        size = self.info.n_ubatch
        for number, start in enumerate(range(0, len(rows), size)):
            micro = rows[start : start + size]
            if failure and failure.micro_batches <= number:
                return self._stop(micro, failure.status)
            if self._flag:
                return self._stop(micro, Status.ABORTED)
            self._pending.shifts.clear()
            for row, (token, position, seq, want) in enumerate(micro, start):
                self._append(seq, token, position)
                if want:
                    self._states[row] = self._pooled[seq] = self._hash(seq)
        if not embeddings:
            self._pooled = {}
        self._unsettled = False
        return Status.OK

    def _stop(self, micro: list[tuple[int, int, int, int]], status: Status) -> Status:
        """A micro-batch that did not finish: its cells go again. A shift may be half done."""
        for cell in self._pending.shifts:
            cell.value ^= _SPOILED
        if not self.info.partial_reuse:  # a recurrent state has moved on and cannot go back
            for token, position, seq, _ in micro:
                self._append(seq, token, position)
                self._held[seq][-1].value ^= _SPOILED
        self._states, self._pooled = {}, {}
        return status

    def _copy(self) -> None:
        for source, target in self._pending.copies:
            target.value = source.value
        self._pending.copies.clear()

    def _has_room(self, seqs: Sequence[int]) -> bool:
        if self.info.unified:
            return self._used + len(seqs) <= self.info.n_ctx
        size = self.info.n_ctx // self.info.n_seq_max
        return all(len(self._held[seq]) + list(seqs).count(seq) <= size for seq in set(seqs))

    def _append(self, seq: int, key: int, position: int) -> None:
        value = crc32(repr((key, self._lora)).encode())
        self._held[seq].append(Cell(key, position, value))
        self._used += 1

    def _hash(self, seq: int) -> int:
        return crc32(array("q", chain.from_iterable((c.position, c.value) for c in self._held[seq])).tobytes())

    def decode_media(self, media: Media, position: int, seq: int) -> Status:
        """Evaluate one picture: a cell a position."""
        self._check_thread()
        assert position == self.pos_max(seq) + 1, f"sequence {seq}: picture at {position}"
        assert media.n_pos == media.n_tokens
        failure = self.failures.get(len(self.history))
        self._states, self._pooled = {}, {}
        status = self._evaluate_media(media, position, seq, failure)
        self.history.append(Evaluated({seq: media.n_tokens}, status))
        return status

    def _evaluate_media(self, media: Media, position: int, seq: int, failure: Failure | None) -> Status:
        self._copy()
        if (failure and failure.status is Status.NO_ROOM) or not self._has_room([seq] * media.n_tokens):
            return Status.NO_ROOM
        rows = [(key, position + i, seq, 0) for i, key in enumerate(picture_keys(media.payload))]
        if failure:
            return self._stop(rows, failure.status)
        self._pending.shifts.clear()
        self._unsettled = False
        for key, at, _, _ in rows:
            self._append(seq, key, at)
        self._states[-1] = self._hash(seq)
        return Status.OK

    def logits(self, row: int) -> FloatArray:
        """Fresh numbers that depend on everything the row's sequence held."""
        self._check_thread()
        assert row in self._states, f"row {row} has no logits"
        return np.random.default_rng(self._states[row]).standard_normal(self.info.n_vocab).astype(np.float32)

    def embeddings(self, seq: int, rows: Sequence[int]) -> FloatArray:
        """One vector, or one a row without pooling."""
        self._check_thread()
        assert seq in self._pooled, f"sequence {seq} has no embeddings"
        seeds = [self._states[row] for row in rows] if self.info.pooling == "none" else [self._pooled[seq]]
        return np.stack([np.random.default_rng(seed).standard_normal(N_EMBD).astype(np.float32) for seed in seeds])

    def abort(self, on: bool) -> None:
        """Any thread."""
        self._flag = on
        self.aborts += on

    # ---- memory

    def seq_rm(self, seq: int, start: int, end: int = -1) -> bool:
        """Drop positions. A recurrent state cannot go back, but does not mind a gap further down."""
        self._check_sequence(seq)
        last = self.pos_max(seq)
        stop = last + 1 if end < 0 else end
        if not self.info.partial_reuse and 0 < start <= last < stop:
            return False
        dropped = [cell for cell in self._held[seq] if start <= cell.position < stop]
        self._held[seq] = [cell for cell in self._held[seq] if not start <= cell.position < stop]
        self._release(dropped)
        return True

    def _release(self, cells: list[Cell]) -> None:
        for cell in cells:
            cell.holders -= 1
            self._used -= cell.holders == 0

    def seq_cp(self, source: int, target: int, end: int) -> None:
        """Unified: refer to the same cells. Split: whole streams, with the next decode. Recurrent: the whole state."""
        self._check_sequence(source)
        self._check_sequence(target)
        assert source != target
        assert not self._held[target], f"sequence {target} is not empty"
        if self.info.unified:
            self._share(source, target, end)
            return
        for cell in self._held[source]:
            copy = Cell(cell.key, cell.position, _SPOILED)
            self._pending.copies.append((cell, copy))
            if cell in self._pending.shifts:
                self._pending.shifts.append(copy)
            self._held[target].append(copy)
            self._used += 1
        self._unsettled = True
        self.seq_rm(target, end)

    def _share(self, source: int, target: int, end: int) -> None:
        for cell in self._held[source]:
            if cell.position < end or not self.info.partial_reuse:
                cell.holders += 1
                self._held[target].append(cell)

    def seq_add(self, seq: int, start: int, end: int, delta: int) -> None:
        """Shift positions. Cells that another sequence shares would move for it too."""
        if delta:
            for cell in self._movable(seq, start, end):
                cell.position += delta
                assert cell.position >= 0

    def seq_div(self, seq: int, start: int, end: int, divisor: int) -> None:
        """Divide positions."""
        for cell in self._movable(seq, start, end):
            cell.position //= divisor

    def _movable(self, seq: int, start: int, end: int) -> list[Cell]:
        self._check_sequence(seq)
        assert self.info.can_shift, "the library aborts: this memory cannot shift"
        cells = [cell for cell in self._held[seq] if start <= cell.position < end]
        assert all(cell.holders == 1 for cell in cells), "the library would corrupt another sequence"
        self._pending.shifts.extend(cells)
        self._unsettled = self._unsettled or bool(cells)
        return cells

    def pos_max(self, seq: int) -> int:
        """Largest position, -1 when empty."""
        return max((cell.position for cell in self._held[seq]), default=-1)

    def pos_min(self, seq: int) -> int:
        """Smallest position, -1 when empty."""
        return min((cell.position for cell in self._held[seq]), default=-1)

    def state_get(self, seq: int) -> bytes:
        """Keys, positions and values."""
        self._check_sequence(seq)
        assert not self._unsettled, "the library would read what a pending copy or shift has not made yet"
        return array("q", chain.from_iterable((c.key, c.position, c.value) for c in self._held[seq])).tobytes()

    def state_set(self, seq: int, data: Bytes) -> bool:
        """Restore. False for what is no state, or has no room."""
        self._check_sequence(seq)
        assert not self._unsettled, "the library would spoil a pending copy"
        self.seq_rm(seq, 0)
        if len(data) % 24:
            return False
        numbers = array("q", bytes(data))
        if not self._has_room([seq] * (len(numbers) // 3)):
            return False
        for i in range(0, len(numbers), 3):
            self._held[seq].append(Cell(*numbers[i : i + 3]))
            self._used += 1
        return True

    def state_export(self, seq: int) -> ByteArray:
        """The same, as numbers that ToyCodec cuts."""
        return np.frombuffer(self.state_get(seq), np.uint8)

    def state_import(self, seq: int, data: ByteArray) -> bool:
        """Restore it."""
        return self.state_set(seq, data.tobytes())

    def set_lora(self, scales: tuple[float, ...]) -> None:
        """Scales of the next decode."""
        self._check_thread()
        assert len(scales) == self.info.n_lora
        self._lora = scales

    def close(self) -> None:
        """Nothing may be called afterwards."""
        self._check_thread()
        self.closed = True

    # ---- rules

    def _check_sequence(self, seq: int) -> None:
        self._check_thread()
        assert 0 <= seq < self.info.n_seq_max, f"sequence {seq}"

    def _check_thread(self) -> None:
        assert not self.closed
        assert threading.get_ident() == self._thread, "only the engine thread may touch the context"


class ScriptedSampler:
    """Says the given tokens one after the other, whatever the logits. Then fails with `error`, or ends the text."""

    def __init__(self, tokens: Sequence[int], error: Exception | None = None) -> None:
        self._tokens = list(tokens)
        self._error = error
        self.primed: list[int] | None = None
        self.closed = False
        self.reasoning_tokens = 0

    def end_thought(self) -> bool:
        """There is none."""
        return False

    def prime(self, prompt: Sequence[int]) -> None:
        """Once."""
        assert self.primed is None
        self.primed = list(prompt)

    def sample(self, logits: FloatArray) -> tuple[int, Any]:
        """The next of the script."""
        if self._tokens:
            return self._tokens.pop(0), None
        if self._error is not None:
            raise self._error
        return 0, None

    def score(self, logits: FloatArray, token: int) -> Any:
        """As the real ones."""
        return score(VOCAB, logits, token, 1)

    def close(self) -> None:
        """Remember it."""
        self.closed = True
