"""Pictures for tests, as clients send them."""

import base64
import io

import numpy as np
from PIL import Image


def png(seed: int, width: int = 40, height: int = 40) -> bytes:
    """A picture of noise around a colour."""
    random = np.random.default_rng(seed)
    pixels = random.choice([30, 220], 3) + random.integers(-30, 30, (height, width, 3))
    return encoded(Image.fromarray(pixels.astype(np.uint8)))


def blank(width: int, height: int, mode: str = "RGB") -> bytes:
    """A picture of one colour: few bytes, many pixels."""
    return encoded(Image.new(mode, (width, height)))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    """As in image_data."""
    return base64.b64encode(data).decode()


def data_url(data: bytes, kind: str = "image/png") -> str:
    """As in image_url."""
    return f"data:{kind};base64,{base64_of(data)}"
