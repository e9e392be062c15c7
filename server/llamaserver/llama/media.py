"""Images in prompts, over libmtmd: from pixels to bitmaps, to chunks, to the KV cache.

pixels.py decodes the images, not the library's own decoder. Any thread may call `build`. Only the engine thread
encodes and decodes.
"""

import ctypes
import hashlib
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt
from llama_cpp import mtmd_cpp as mtmd
from PIL.ImageFile import ImageFile

from ..errors import InvalidRequest, ModelLoadError, NotSupported
from ..interfaces.backend import Status, never
from ..interfaces.params import Media, Prompt
from . import devices
from .pixels import open_picture, rgb
from .text_parts import TextParts, stand_in
from .vocab import LlamaVocab

_TIMES = 4  # the pixels of the largest image: for all images of a prompt, and for all that a request has decoded
_NODES_PER_LOOK = 16  # graph nodes of the vision model between two looks at the abort flag
_KEY_BITS = (1 << 62) - 1
_ODD = 0x9E3779B97F4A7C15


class _Chunk:
    """A chunk of the library. It is freed with the last prompt that holds it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __del__(self) -> None:
        if self.handle:
            mtmd.mtmd_input_chunk_free(self.handle)
            self.handle = None


class _Bitmap:
    """A decoded image of the library, with its own copy of the pixels. It is freed with the last one who holds it."""

    def __init__(self, file: ImageFile) -> None:
        self.pixels = file.width * file.height
        image = rgb(file)
        content = image.tobytes()
        address = ctypes.cast(ctypes.c_char_p(content), ctypes.POINTER(ctypes.c_uint8))
        self.handle = mtmd.mtmd_bitmap_init(image.width, image.height, address)
        identity = hashlib.sha256(b"%dx%d/" % image.size)
        identity.update(content)  # equal pixels are the same image, in any file format
        mtmd.mtmd_bitmap_set_id(self.handle, identity.hexdigest().encode())

    def __del__(self) -> None:
        if handle := self.__dict__.pop("handle", None):
            mtmd.mtmd_bitmap_free(handle)


@dataclass(frozen=True, slots=True)
class ProjectorOptions:
    """`n_batch` is the largest number of rows of one decode. A decode ends while the byte `abort_flag` is not zero."""

    path: str
    max_pixels: int  # of one image
    use_gpu: bool
    threads: int
    n_batch: int
    n_ubatch: int
    abort_flag: Any


class MediaProjector:
    """A loaded projector (protocol MediaTokenizer, and the engine's decode of an image)."""

    modalities: frozenset[str]

    def __init__(
        self, options: ProjectorOptions, model: Any, context: Any, vocab: LlamaVocab, log: devices.LogCapture
    ) -> None:
        mtmd.mtmd_helper_log_set(devices.LOG_CALLBACK, ctypes.c_void_p(0))
        self._options = options
        self._context = context
        self._vocab = vocab
        self._stand_in = stand_in(vocab)
        self._looks = 0
        self._watch = lib.ggml_backend_sched_eval_callback(self._see_node)  # must exist longer than the projector
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = options.use_gpu
        params.print_timings = False
        params.n_threads = options.threads
        params.warmup = False
        params.cb_eval = self._watch
        self._handle = mtmd.mtmd_init_from_file(options.path.encode(), model, params)
        if not self._handle:
            raise ModelLoadError(f"cannot load projector {options.path}: {log.last_error()}", options.path)
        self._lock = threading.Lock()
        self._width = lib.llama_model_n_embd_inp(model)
        self._sections = 4 if mtmd.mtmd_decode_use_mrope(self._handle) else 1
        self.modalities = frozenset({"vision"} if mtmd.mtmd_support_vision(self._handle) else ())

    def _see_node(self, tensor: Any, ask: bool, data: Any) -> bool:
        """End the graph early. This is the only way to abort an encode of the library."""
        if not ask:
            return not self._aborted
        self._looks += 1
        return self._looks % _NODES_PER_LOOK == 0

    @property
    def _aborted(self) -> bool:
        return bool(self._options.abort_flag[0] != b"\0")

    # ---- any thread

    def build(
        self,
        parts: Sequence[str | bytes],
        *,
        add_special: bool,
        decoded: dict[bytes, Any] | None = None,
        cancelled: Callable[[], bool] = never,
    ) -> Prompt:
        """Tokenize texts (str) and images (bytes) in order. Raises InvalidRequest for bytes that are not an image.

        Images are decoded one at a time. That takes up to 16 bytes a pixel, and then 3 bytes a pixel as long as
        `decoded` holds the image.
        """
        texts = TextParts(self._vocab, self._stand_in, cancelled)
        parts = [part if isinstance(part, bytes) else texts.shortened(part) for part in parts]
        with self._lock, ExitStack() as stack:
            inputs = _Inputs(self._options.max_pixels, {} if decoded is None else decoded)
            for part in parts:
                if isinstance(part, bytes):
                    inputs.image(part)
                else:
                    inputs.text(part)
            chunks = mtmd.mtmd_input_chunks_init()
            stack.callback(mtmd.mtmd_input_chunks_free, chunks)
            array_of_parts, count = inputs.pointers()
            if mtmd.mtmd_tokenize_from_parts(self._handle, chunks, array_of_parts, count, add_special) != 0:
                raise InvalidRequest("the projector cannot process an image of this kind", field="image_data")
            prompt = _prompt(chunks, texts)
        for media in prompt.media:
            self._check(media)
        return prompt

    def _check(self, media: Media) -> None:
        """Refuse an image without causal attention that exceeds a micro-batch. The library would end the process."""
        whole = mtmd.mtmd_decode_use_non_causal(self._handle, media.payload.handle)
        if whole and media.n_tokens > min(self._options.n_batch, self._options.n_ubatch):
            raise InvalidRequest(
                f"an image of {media.n_tokens} tokens needs a physical batch (--ubatch-size) of at least that many",
                field="image_data",
            )

    # ---- engine thread

    def decode(self, media: Media, position: int, seq: int) -> Status:
        """Encode the image and write it to the KV cache of `seq` at `position`.

        The last row has logits. After a failure, the content of the cache from `position` on is undefined.
        """
        if mtmd.mtmd_encode_chunk(self._handle, media.payload.handle) != 0:
            return Status.FATAL
        if self._aborted:
            return Status.ABORTED
        embeddings = mtmd.mtmd_get_output_embd(self._handle)
        whole = mtmd.mtmd_decode_use_non_causal(self._handle, media.payload.handle)
        if whole:
            lib.llama_set_causal_attn(self._context, False)
        try:
            for batch in self._batches(embeddings, media, position, seq):
                code = lib.llama_decode(self._context, batch)
                if code != 0:
                    return Status(code) if code in (1, 2, -1) else Status.FATAL
            lib.llama_synchronize(self._context)
            return Status.OK
        finally:
            if whole:
                lib.llama_set_causal_attn(self._context, True)

    def _batches(self, embeddings: Any, media: Media, position: int, seq: int) -> Iterator[Any]:
        positions = self._positions(media, position)
        n = media.n_tokens
        for start in range(0, n, self._options.n_batch):
            count = min(self._options.n_batch, n - start)
            rows = (ctypes.c_float * (count * self._width)).from_address(
                ctypes.addressof(embeddings.contents) + start * self._width * ctypes.sizeof(ctypes.c_float)
            )
            places = np.ascontiguousarray(positions[:, start : start + count])
            one = ctypes.pointer(ctypes.c_int32(seq))
            seqs = (ctypes.POINTER(ctypes.c_int32) * count)(*[one] * count)
            counts = (ctypes.c_int32 * count)(*[1] * count)
            wants = (ctypes.c_int8 * count)()
            wants[count - 1] = int(start + count == n)
            place = places.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            yield lib.llama_batch(
                count, None, ctypes.cast(rows, ctypes.POINTER(ctypes.c_float)), place, counts, seqs, wants
            )

    def _positions(self, media: Media, position: int) -> npt.NDArray[np.int32]:
        """Positions of shape (sections, n_tokens). The sections of M-RoPE are time, row, column and one spare."""
        if self._sections == 1:
            return np.arange(position, position + media.n_tokens, dtype=np.int32)[None]
        image = mtmd.mtmd_input_chunk_get_tokens_image(media.payload.handle)
        found = (mtmd.mtmd_decoder_pos * media.n_tokens)()
        mtmd.mtmd_helper_image_get_decoder_pos(image, position, found)
        return np.array([[p.t, p.y, p.x, p.z] for p in found], np.int32).T


class _Inputs:
    """The library's array of parts. `decoded` has the images of the request by the hashes of their files."""

    def __init__(self, max_pixels: int, decoded: dict[bytes, Any]) -> None:
        self._max_pixels = max_pixels
        self._decoded: dict[bytes, _Bitmap] = decoded
        self._parts: list[Any] = []
        self._images = 0
        self._pixels = 0

    def text(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        content = mtmd.mtmd_input_text(data, len(data), False, True)
        self._parts.append(mtmd.mtmd_input_part(ctypes.pointer(content), None))

    def image(self, data: bytes) -> None:
        self._images += 1
        try:
            bitmap = self._bitmap(data)
        except InvalidRequest as error:
            raise InvalidRequest(f"image {self._images}: {error.message}", field="image_data") from error
        self._parts.append(mtmd.mtmd_input_part(None, bitmap.handle))

    def _bitmap(self, data: bytes) -> _Bitmap:
        key = hashlib.sha256(data).digest()
        if (bitmap := self._decoded.get(key)) is None:
            file = open_picture(data)  # reads the size only
            self._check(file.width * file.height)
            bitmap = self._decoded[key] = _Bitmap(file)
        self._pixels += bitmap.pixels
        self._check_all(self._pixels)
        return bitmap

    def _check(self, pixels: int) -> None:
        """Refuse an image that is too large, alone or with those that the request has decoded already."""
        if pixels > self._max_pixels:
            raise InvalidRequest(f"{pixels} pixels, an image may have {self._max_pixels} (--max-image-pixels)")
        self._check_all(pixels + max(self._pixels, sum(bitmap.pixels for bitmap in self._decoded.values())))

    def _check_all(self, pixels: int) -> None:
        if pixels > _TIMES * self._max_pixels:
            most = f"{_TIMES} times --max-image-pixels, {_TIMES * self._max_pixels}"
            raise InvalidRequest(f"{pixels} pixels so far, all images of a request may have {most}")

    def pointers(self) -> tuple[Any, int]:
        count = len(self._parts)
        return (ctypes.POINTER(mtmd.mtmd_input_part) * count)(*map(ctypes.pointer, self._parts)), count


def _prompt(chunks: Any, texts: TextParts) -> Prompt:
    keys = array("q")
    media: list[Media] = []
    for index in range(mtmd.mtmd_input_chunks_size(chunks)):
        chunk = mtmd.mtmd_input_chunks_get(chunks, index)
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            count = ctypes.c_size_t(0)
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            keys.extend(texts.completed(tokens[: count.value]))
            if min(tokens[: count.value], default=0) < 0:
                raise NotSupported("the projector uses tokens that this model's vocabulary does not have")
            continue
        n_pos = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
        n_tokens = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        copy = _Chunk(mtmd.mtmd_input_chunk_copy(chunk))
        media.append(Media(len(keys), n_pos, n_tokens, copy))
        keys.extend(_piece_keys(mtmd.mtmd_input_chunk_get_id(chunk) or b"", index, n_pos))
    return Prompt(keys, tuple(media))


def _piece_keys(content: bytes, index: int, n_pos: int) -> list[int]:
    """Negative numbers for the positions of one slice of an image. Only equal images have equal numbers.

    `content` identifies the image, `index` identifies the slice. Four neighbouring numbers carry the whole
    hash.
    """
    digest = hashlib.sha256(content + b"/%d" % index).digest()
    words = [int.from_bytes(digest[i : i + 8], "big") for i in (0, 8, 16, 24)]
    return [-1 - ((words[offset % 4] + offset * _ODD) & _KEY_BITS) for offset in range(n_pos)]
