"""Pictures become what a viewer shows: the right way up, on white, with all their shades."""

import io
import struct
import zlib

import numpy as np
import pytest
from llamaserver.errors import InvalidRequest
from llamaserver.llama.pixels import _flat, open_picture, rgb
from PIL import ExifTags, Image

from tests.support.images import encoded, png

# How a viewer shows stored rows and columns, by EXIF's orientation (its standard, 4.6.4 A).
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}
STORED = Image.open(io.BytesIO(png(1, 9, 5)))


def shown(data: bytes) -> np.ndarray:
    """The pixels of a file: (height, width, 3)."""
    image = rgb(open_picture(data))
    assert image.mode == "RGB"
    return np.asarray(image)


def colours(data: bytes) -> list[tuple[int, ...]]:
    """Those of a picture that is one pixel high."""
    (row,) = shown(data).tolist()
    return [tuple(pixel) for pixel in row]


def with_exif(image: Image.Image, kind: str, exif: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def orientation(value: object) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif


# ---- the right way up


@pytest.mark.parametrize("turn", SHOWN)
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_pictures_are_turned_as_their_cameras_say(kind: str, options: dict[str, bool], turn: int) -> None:
    plain = shown(with_exif(STORED, kind, Image.Exif(), **options))
    assert plain.shape == (5, 9, 3)
    np.testing.assert_array_equal(
        shown(with_exif(STORED, kind, orientation(turn), **options)), SHOWN[turn](plain), strict=True
    )


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA", "LA", "P", "1"])
def test_whatever_the_mode(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    image.putpixel(
        (0, 0), (255, 255) if mode == "LA" else (255,) * 4 if mode == "RGBA" else 65535 if "I" in mode else 1
    )
    plain, turned = shown(with_exif(image, "PNG", Image.Exif())), shown(with_exif(image, "PNG", orientation(6)))
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))


@pytest.mark.parametrize(
    "exif",
    [
        orientation(0), orientation(9), b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"no EXIF",
        b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 300,
    ],
    ids=range(7),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_turns_nothing(exif: object) -> None:
    np.testing.assert_array_equal(shown(with_exif(STORED, "JPEG", exif)), shown(with_exif(STORED, "JPEG", b"")))


def test_orientation_in_xmp() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    np.testing.assert_array_equal(
        shown(with_exif(STORED, "JPEG", b"", xmp=xmp)), np.rot90(shown(with_exif(STORED, "JPEG", b"")), 1)
    )


# ---- on white


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, depth: int, colour: int, row: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of one row, which Pillow cannot write in every depth."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    rest = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + head + rest + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
RGBA = Image.new("RGBA", (4, 1))
RGBA.putdata([(0, 0, 0, 0), (0, 0, 0, 255), (200, 0, 0, 128), (10, 20, 30, 255)])
ON_WHITE = [WHITE, BLACK, (227, 127, 127), (10, 20, 30)]


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparent_is_white(kind: str, options: dict[str, bool]) -> None:
    buffer = io.BytesIO()
    RGBA.save(buffer, kind, **options)
    assert colours(buffer.getvalue()) == ON_WHITE


def test_black_letters_on_nothing_are_black_on_white() -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (5, 5, 15, 8))
    pixels = shown(encoded(image))
    assert (pixels[6, 10].tolist(), pixels[0, 0].tolist()) == ([0, 0, 0], [255, 255, 255])


def test_grey_with_transparency() -> None:
    image = Image.new("LA", (3, 1))
    image.putdata([(0, 0), (0, 255), (100, 128)])
    assert colours(encoded(image)) == [WHITE, BLACK, (177, 177, 177)]


@pytest.mark.parametrize("transparency", [1, b"\xff\0"], ids=["one colour", "an alpha for each"])
def test_palette_with_transparency(transparency: object) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([9, 9, 9, 0, 0, 0, 50, 60, 70])
    image.putdata([0, 1, 2])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=transparency)
    assert colours(buffer.getvalue()) == [(9, 9, 9), WHITE, (50, 60, 70)]
    buffer = io.BytesIO()
    image.save(buffer, "GIF", transparency=1)
    assert colours(buffer.getvalue()) == [(9, 9, 9), WHITE, (50, 60, 70)]


def test_palette_with_half_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 0])
    image.putdata([0, 1])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=b"\x80\xff")
    assert colours(buffer.getvalue()) == [(227, 127, 127), BLACK]
    assert _flat(RGBA.quantize(8).convert("PA")).mode == "RGB"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (raw_png(8, 1, 0, b"\xa5", words(0)), [WHITE] * 8),
        (raw_png(8, 1, 0, b"\xa5", words(1)), [WHITE, BLACK, WHITE, BLACK, BLACK, WHITE, BLACK, WHITE]),
        (raw_png(2, 2, 0, b"\x60", words(1)), [WHITE, (170,) * 3]),
        (raw_png(2, 4, 0, b"\x5a", words(5)), [WHITE, (170,) * 3]),
        (raw_png(2, 8, 0, b"\x05\x06", words(5)), [WHITE, (6,) * 3]),
        (raw_png(2, 16, 0, words(1285, 1286), words(1285)), [WHITE, (5,) * 3]),
        (raw_png(2, 8, 2, b"\x01\x02\x03\x01\x02\x04", words(1, 2, 3)), [WHITE, (1, 2, 4)]),
        (raw_png(2, 16, 2, words(256, 512, 5, 256, 768, 5), words(256, 512, 5)), [WHITE, (1, 3, 0)]),
    ],
    ids=["1 bit", "1 bit, white", "2 bits", "4 bits", "8 bits", "16 bits", "colour", "16 bits of colour"],
)
def test_one_transparent_colour(data: bytes, expected: list[tuple[int, ...]]) -> None:
    assert colours(data) == expected


# ---- all shades


def test_sixteen_bits_of_grey() -> None:
    values = [0, 255, 256, 20_000, 40_000, 65_535]
    assert colours(raw_png(6, 16, 0, words(*values))) == [(round(v / 257),) * 3 for v in values]


def test_sixteen_bits_of_colour() -> None:
    colour = (40_000, 256, 65_535)
    wanted = np.array(colour) / 257
    for kind, row in ((2, words(*colour)), (6, words(*colour, 65_535))):
        np.testing.assert_allclose(colours(raw_png(1, 16, kind, row))[0], wanted, atol=1)
    assert colours(raw_png(2, 16, 4, words(40_000, 65_535, 5, 0))) == [(156,) * 3, WHITE]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I", "F"])
def test_greys_as_pillow_keeps_them(mode: str) -> None:
    row = [_flat(Image.new(mode, (1, 1), value)).getpixel((0, 0)) for value in (0, 129, 40_000, 65_535)]
    assert row == [BLACK, (1,) * 3, (156,) * 3, WHITE]


def test_a_scan_from_black_to_white_keeps_its_shades() -> None:
    scan = np.linspace(0, 65_535, 256, dtype=np.uint16).reshape(1, 256)
    buffer = io.BytesIO()
    Image.fromarray(scan).save(buffer, "PNG")
    np.testing.assert_array_equal(shown(buffer.getvalue())[0, :, 0], np.arange(256))


def test_printers_colours() -> None:
    """CMYK, which JPEG files hold upside down."""
    inks = {(0, 0, 0, 0): WHITE, (255, 0, 0, 0): (0, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): BLACK}
    for ink, colour in inks.items():
        pixel = shown(encoded(Image.new("CMYK", (16, 16), ink), "JPEG"))[8, 8]
        np.testing.assert_allclose(pixel, colour, atol=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_moving_pictures_the_first(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(shown(buffer.getvalue())[4, 4], (255, 0, 0), atol=3)


# ---- what is refused


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "TGA", "AVIF"])
def test_other_formats_are_refused_and_those_that_are_read_are_named(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="not one of PNG, JPEG, GIF, BMP, WEBP"):
        open_picture(encoded(STORED.resize((16, 16)), kind))


def test_pictures_of_telephones_in_another_format_are_refused() -> None:
    heic = b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiafMiHBheic" + bytes(100)
    with pytest.raises(InvalidRequest, match="not one of PNG"):
        open_picture(heic)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_a_file_that_is_cut(kind: str) -> None:
    data = encoded(Image.open(io.BytesIO(png(2, 64, 64))), kind)
    with pytest.raises(InvalidRequest, match=r"damaged|not an image|not one of"):
        rgb(open_picture(data[: len(data) // 2]))


def test_a_jpeg_file_with_a_thousand_scans() -> None:
    """Each would be a pass over all pixels."""
    buffer = io.BytesIO()
    STORED.resize((500, 500)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert 8 < data.count(b"\xff\xda") < 20
    open_picture(data)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(InvalidRequest, match="scans"):
        open_picture(data[:-2] + scan * 1000 + data[-2:])
