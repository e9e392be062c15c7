"""The steps of the warm-up. They find a failure before the server is ready for the first request.

The steps use the backend as requests do: a prompt of a whole micro-batch, a shift, a single row, a copy, all
slots in one batch, embeddings, an image, and a sampler over the logits. A crash ends the process here. A decode
that fails, or a number that is not finite, raises ModelLoadError.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidRequest, ModelLoadError, NotSupported
from ..interfaces.backend import Backend, Batch, FloatArray, Status
from ..interfaces.params import SamplingParams

_log = logging.getLogger(__name__)
TEXT = "The quick brown fox jumps over the lazy dog. Then it asks: what is 12 + 7?\n"
_ENOUGH = 512  # rows of a prompt, if an embedding has filled a micro-batch before
_SHIFT = 8  # tokens that the shift drops
_MIXED = 7  # rows of a prompt in one batch with single rows of other slots


@dataclass(frozen=True, slots=True)
class Served:
    """The kinds of requests that the server will serve, and test data: token ids, and the bytes of an image or none."""

    tokens: Sequence[int]
    slots: int = 1
    embeds: bool = False
    shifts: bool = True
    image: bytes = b""


class WarmUp:
    """One warm-up of a backend. Its cache is empty before and after."""

    def __init__(self, backend: Backend, served: Served) -> None:
        self._backend = backend
        self._served = served
        self._info = info = backend.info
        self._cells = info.n_ctx if info.unified else info.n_ctx // info.n_seq_max  # cells for one sequence at most
        self._positions = min(self._cells, info.n_ctx_train or self._cells)
        self._slots = min(served.slots, info.n_ctx // 4) if info.unified else served.slots
        self._mixed = min(_MIXED, info.n_batch - 1) if info.unified and self._slots > 1 else 0

    def run(self) -> None:
        """Evaluate the kinds of input that requests bring. Raises ModelLoadError."""
        rows = max(1, min(self._info.n_ubatch, self._positions))
        if self._served.embeds:
            self._embed(rows)
            rows = min(rows, _ENOUGH)
        if self._info.causal:
            self._prompt(rows)
            self._shift()
            self._single_row()
            self._all_slots()
            self._clear()
            self._image()
        self._clear()

    def _clear(self) -> None:
        for seq in range(self._info.n_seq_max):
            self._backend.seq_rm(seq, 0)

    # ---- steps

    def _embed(self, rows: int) -> None:
        batch = Batch()
        self._add(batch, 0, rows, every=True)
        what = f"an input of {rows} tokens"
        self._decode(batch, what, embeddings=True)
        if not np.isfinite(self._backend.embeddings(0, range(rows))).all():
            raise ModelLoadError(f"the embedding of {what} has numbers that are not finite")
        self._clear()

    def _prompt(self, rows: int) -> None:
        """Evaluate a prompt. Keep as much of it as leaves room for the other steps."""
        batch = Batch()
        row = self._add(batch, 0, rows)
        what = f"a prompt of {rows} tokens"
        self._decode(batch, what)
        self._logits(row, what)
        room = self._positions - 2 - self._mixed
        if self._info.unified:
            room = min(room, self._info.n_ctx - self._slots - 1 - self._mixed)
        keep = max(0, min(rows, room))
        if keep < rows and not self._backend.seq_rm(0, keep):
            self._clear()  # a recurrent state cannot go back to an earlier position

    def _shift(self) -> None:
        """Request a shift. The next decode carries it out."""
        end = self._backend.pos_max(0) + 1
        if self._served.shifts and self._info.can_shift and end > 2 * _SHIFT:
            self._backend.seq_rm(0, 0, _SHIFT)
            self._backend.seq_add(0, _SHIFT, end, -_SHIFT)

    def _single_row(self) -> None:
        batch = Batch()
        row = self._add(batch, 0, 1)
        self._decode(batch, "a single token")
        logits = self._logits(row, "a single token")
        sampler = self._backend.make_sampler(SamplingParams(), self._info.n_ctx)
        try:
            sampler.prime(batch.tokens)
            sampler.sample(logits)
        finally:
            sampler.close()

    def _all_slots(self) -> None:
        """Evaluate one row of each slot. Add rows of the last slot if the cache mixes prompts with single rows."""
        if self._slots == 1:
            return
        self._backend.seq_cp(0, 1, self._backend.pos_max(0) + 1)
        for start in range(0, self._slots, self._info.n_batch):
            batch = Batch()
            seqs = range(start, min(start + self._info.n_batch, self._slots))
            for seq in seqs[:-1]:
                self._add(batch, seq, 1)
            spare = min(self._mixed, self._info.n_batch - len(seqs)) if seqs[-1] == self._slots - 1 else 0
            row = self._add(batch, seqs[-1], 1 + spare)
            what = f"a batch of {len(seqs)} sequences"
            self._decode(batch, what)
            self._logits(row, what)

    def _image(self) -> None:
        if not self._served.image or self._backend.media is None:
            return
        try:
            media = self._backend.media.build([self._served.image], add_special=False).media[0]
        except (InvalidRequest, NotSupported) as error:
            _log.warning("requests with images will be refused: %s", error.message)
            return
        if media.n_tokens >= self._cells:
            _log.warning("an image takes %d tokens and a slot has %d: no image fits", media.n_tokens, self._cells)
            return
        status = self._backend.decode_media(media, 0, 0)
        if status is not Status.OK:
            raise ModelLoadError(f"an image cannot be evaluated ({status.name})")
        self._logits(-1, "an image")

    # ---- rows and results

    def _add(self, batch: Batch, seq: int, count: int, *, every: bool = False) -> int:
        """Append rows to a sequence and return the last index. The last row, or every row, requests its output."""
        start = self._backend.pos_max(seq) + 1
        for position in range(start, start + count):
            token = self._served.tokens[position % len(self._served.tokens)]
            batch.add(token, position, seq, every or position == start + count - 1)
        return len(batch) - 1

    def _decode(self, batch: Batch, what: str, *, embeddings: bool = False) -> None:
        status = self._backend.decode(batch, embeddings=embeddings)
        if status is not Status.OK:
            raise ModelLoadError(f"{what} cannot be evaluated ({status.name})")

    def _logits(self, row: int, what: str) -> FloatArray:
        """The logits of a row. A model may forbid tokens by -inf. No other value that is not finite is accepted."""
        logits = self._backend.logits(row)
        if np.isnan(logits).any() or not np.isfinite(logits.max()):
            raise ModelLoadError(f"the logits of {what} are not finite numbers")
        return logits
