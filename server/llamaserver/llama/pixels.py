"""Pictures as clients send them to pixels as a viewer shows them: the right way up, on a white page.

Decoded by Pillow: sizes are known before a pixel is read, and nothing but still images gets in. Any thread.
"""

import io

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from ..errors import InvalidRequest

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_TURNS = {  # by EXIF's orientation: how to undo what the camera did not
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")  # greys of 0 to 65,535
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # what Pillow multiplies few bits of grey with


def open_picture(data: bytes) -> ImageFile.ImageFile:
    """Read the header only; InvalidRequest for what is no picture, or of another format."""
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidRequest(f"not one of {', '.join(_FORMATS)}") from error
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise InvalidRequest(f"not an image: {error}") from error


def rgb(image: ImageFile.ImageFile) -> Image.Image:
    """Decode an opened picture to mode RGB; InvalidRequest when it is damaged."""
    try:
        stored = image.tile[0].args if image.tile else None
        image.load()
        _fit_transparency(image, stored)
        return _flat(_upright(image))
    except Exception as error:  # as above
        raise InvalidRequest(f"damaged: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. When that is damaged, viewers show the picture as it lies."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        turn = None
    return image if turn is None else image.transpose(turn)


def _fit_transparency(image: Image.Image, stored: object) -> None:
    """The one colour of a PNG that is transparent, in the 8 bits that Pillow has made of its depth."""
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
    """Pillow's conversion copies even what needs none, and a picture can be large."""
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16 bits of grey to 8; Pillow's own conversion would make white of all above 255."""
    grey = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if (transparent := image.info.get("transparency")) is not None:
        grey.paste(255, mask=Image.fromarray(np.asarray(image) == transparent))
    return grey
