"""Images in prompts over libmtmd: bytes to checked bitmaps, to chunks, to the KV cache.

Images are decoded by Pillow, not by the library's own decoder: sizes are bounded before a pixel is
read and nothing but still images gets in. `build` may be called from any thread; encoding and
decoding belong to the engine thread.
"""

import ctypes
import hashlib
import io
import threading
from array import array
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
from llama_cpp import mtmd_cpp as mtmd
from PIL import Image

from ..errors import InvalidRequest, ModelLoadError
from .backend import Status
from .params import Media, Prompt

MAX_PIXELS = 64 * 1024 * 1024
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")


class _Chunk:
    """A library chunk that frees itself with the last prompt that holds it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __del__(self) -> None:
        if self.handle:
            mtmd.mtmd_input_chunk_free(self.handle)
            self.handle = None


class MediaProjector:
    """A loaded projector (protocol MediaTokenizer, and the engine's decode of an image)."""

    modalities: frozenset[str]

    def __init__(self, path: str, model: Any, context: Any, options: Any) -> None:
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = options.n_gpu_layers != 0
        params.print_timings = False
        params.n_threads = options.threads_batch
        params.warmup = False
        self._model_context = context
        self._n_batch = min(options.batch_size, options.ubatch_size)
        self._handle = mtmd.mtmd_init_from_file(path.encode(), model, params)
        if not self._handle:
            raise ModelLoadError(f"cannot load projector {path}: it is no projector or does not fit the model")
        self._marker = mtmd.mtmd_default_marker()
        self._lock = threading.Lock()  # the tokenizer keeps scratch state
        self.modalities = frozenset({"vision"} if mtmd.mtmd_support_vision(self._handle) else ())

    def build(self, parts: Sequence[str | bytes], *, add_special: bool) -> Prompt:
        """Tokenize texts (str) and images (bytes) in order; InvalidRequest for what is no image."""
        marker = self._marker.decode()
        images = [part for part in parts if isinstance(part, bytes)]
        texts = [marker if isinstance(p, bytes) else p.replace(marker, "") for p in parts]
        bitmaps = [_bitmap(_rgb(image)) for image in images]
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text("".join(texts).encode("utf-8", "replace"), add_special, True)
            handles = (ctypes.c_void_p * max(1, len(bitmaps)))(*bitmaps)
            with self._lock:
                code = mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), handles, len(bitmaps))
            if code != 0:
                raise InvalidRequest("the projector cannot process an image", field="image_data")
            return _prompt(chunks, [_content_key(image) for image in images])
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)

    def decode(self, media: Media, position: int, seq: int) -> Status:
        """Encode the image and put it into the KV cache of `seq` at `position`."""
        after = lib.llama_pos(0)
        code = mtmd.mtmd_helper_eval_chunk_single(
            self._handle,
            self._model_context,
            media.payload.handle,
            position,
            seq,
            self._n_batch,
            False,
            ctypes.byref(after),
        )
        return Status(code) if code in (0, 1, 2, -1) else Status.FATAL

    def close(self) -> None:
        """Free the projector; idempotent."""
        if self._handle:
            mtmd.mtmd_free(self._handle)
            self._handle = None


def _rgb(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InvalidRequest(
                f"image of {image.width}x{image.height} pixels exceeds {MAX_PIXELS}", field="image_data"
            )
        return image.convert("RGB")
    except InvalidRequest:
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise InvalidRequest(f"not an image: {error}", field="image_data") from error


def _bitmap(image: Image.Image) -> Any:
    pixels = image.tobytes()
    buffer = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
    return mtmd.mtmd_bitmap_init(image.width, image.height, buffer)


def _content_key(data: bytes) -> int:
    """A 62-bit number of the image's content; what identifies it in cached prefixes."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 2


def _prompt(chunks: Any, contents: list[int]) -> Prompt:
    keys = array("q")
    media: list[Media] = []
    remaining = list(contents)
    current = 0
    for index in range(mtmd.mtmd_input_chunks_size(chunks)):
        chunk = mtmd.mtmd_input_chunks_get(chunks, index)
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            count = ctypes.c_size_t(0)
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            keys.extend(tokens[: count.value])
            continue
        # One image may come as several slices; a new one starts where text stood between.
        if remaining and (not media or media[-1].start + media[-1].n_pos != len(keys) or len(remaining) >= 1):
            current = remaining.pop(0) if remaining else current
        n_pos = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
        n_tokens = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        copy = _Chunk(mtmd.mtmd_input_chunk_copy(chunk))
        media.append(Media(len(keys), n_pos, n_tokens, copy))
        keys.extend(_piece_key(current, index, offset) for offset in range(n_pos))
    return Prompt(keys, tuple(media))


def _piece_key(content: int, index: int, offset: int) -> int:
    """A negative number for one position of an image: never a token id, and equal only for equal images."""
    return -1 - ((content ^ (index * 0x9E3779B97F4A7C15) ^ (offset * 0xC2B2AE3D27D4EB4F)) & ((1 << 62) - 1))
