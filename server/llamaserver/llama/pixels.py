"""Decodes the pictures of clients to the pixels that a viewer shows: upright, on a white page.

Pillow decodes them. The size is known before the first pixel is read. Only still images are accepted. Any
thread.
"""

import io

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ..errors import InvalidRequest

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_TURNS = {  # by EXIF's orientation: the operation that turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # greys of 0 to 65,535
_MOST_SCANS = 100  # of a JPEG file; each is a pass over all pixels, and cameras and editors write at most 14
_SCAN = b"\xff\xda"  # stands nowhere else in coded pixels
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # factors by which Pillow multiplies greys of few bits


def open_picture(data: bytes) -> ImageFile.ImageFile:
    """Read only the header. Raises InvalidRequest for bytes that are no picture, or a picture of another format."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidRequest(f"not one of {', '.join(_FORMATS)}") from error
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise InvalidRequest(f"not an image: {error}") from error
    if image.format == "JPEG" and data.count(_SCAN) > _MOST_SCANS:
        raise InvalidRequest(f"a JPEG file of more than {_MOST_SCANS} scans")
    return image


def rgb(image: ImageFile.ImageFile) -> Image.Image:
    """Decode an opened picture to mode RGB. Raises InvalidRequest if it is damaged."""
    try:
        stored = image.tile[0].args if image.tile else None
        image.load()
        _fit_transparency(image, stored)
        return _flat(_upright(image))
    except Exception as error:  # a decoder may raise anything, as said above
        raise InvalidRequest(f"damaged: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """The picture, turned as EXIF says. With damaged EXIF data it stays as it is, as in viewers."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _fit_transparency(image: Image.Image, stored: object) -> None:
    """Convert the one transparent colour of a PNG to the 8 bits to which Pillow has converted its depth."""
    colour = image.info.get("transparency")
    if isinstance(colour, int) and stored in _GREY_STEPS:
        image.info["transparency"] = colour * _GREY_STEPS[str(stored)]
    elif isinstance(colour, tuple) and stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _flat(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return _of_mode("RGB", image)
    layer = _of_mode("RGBA", image)
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer)
    return page


def _of_mode(mode: str, image: Image.Image) -> Image.Image:
    """Convert a picture only if its mode differs. Pillow's conversion always copies, and a picture can be large."""
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert greys of 16 bits to 8 bits. Pillow's own conversion would make all values above 255 white."""
    grey = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if (transparent := image.info.get("transparency")) is not None:
        grey.paste(255, mask=Image.fromarray(np.asarray(image) == transparent))
    return grey
