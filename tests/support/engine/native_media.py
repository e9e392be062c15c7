"""A prompt with images evaluated by the library's own helpers: the reference for ours."""

import ctypes
import io
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt
from llama_cpp import mtmd_cpp as mtmd
from llamaserver.llama import devices
from PIL import Image


def last_logits(model_path: Path, projector: Path, text: str, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
    """Logits after `text`, in which each <__media__> stands for one image."""
    devices.initialise()
    model = lib.llama_model_load_from_file(str(model_path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 1024, 1, 1
    context = lib.llama_init_from_model(model, params)
    options = mtmd.mtmd_context_params_default()
    options.use_gpu, options.warmup, options.n_threads = False, False, 1
    handle = mtmd.mtmd_init_from_file(str(projector).encode(), model, options)
    try:
        return _evaluate(handle, context, text, images, lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)))
    finally:
        mtmd.mtmd_free(handle)
        lib.llama_free(context)
        lib.llama_model_free(model)


def _evaluate(handle: int, context: int, text: str, images: Sequence[bytes], n_vocab: int) -> npt.NDArray[np.float32]:
    bitmaps = [_bitmap(image) for image in images]
    chunks = mtmd.mtmd_input_chunks_init()
    data = text.encode()
    content = mtmd.mtmd_input_text(data, len(data), True, True)
    handles = (ctypes.c_void_p * len(bitmaps))(*bitmaps)
    assert mtmd.mtmd_tokenize(handle, chunks, ctypes.byref(content), handles, len(bitmaps)) == 0
    after = lib.llama_pos(0)
    code = mtmd.mtmd_helper_eval_chunks(handle, context, chunks, 0, 0, 512, True, ctypes.byref(after))
    assert code == 0
    row = np.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (n_vocab,)).copy()
    mtmd.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        mtmd.mtmd_bitmap_free(bitmap)
    return row


def _bitmap(data: bytes) -> int:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = ctypes.cast(ctypes.c_char_p(image.tobytes()), ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd.mtmd_bitmap_init(image.width, image.height, pixels)
    assert bitmap
    return int(bitmap)
