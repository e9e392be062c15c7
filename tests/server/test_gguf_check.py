"""Which files count as whole GGUFs: real ones of every kind, cut ones, and headers that lie."""

import ctypes
import random

import gguf
import numpy as np
import pytest
from llamaserver.models import gguf_check
from llamaserver.models.gguf_check import CutOffError, NotGGUFError, check, check_begin

from tests.support.gguf_bytes import ARRAY, STRING, UINT32, Tensor, header, text, u32, u64, value, whole
from tests.support.models import Models


@pytest.fixture
def verdict(tmp_path):
    """What the check says of a file with these bytes; "" for a whole one."""

    def judge(data):
        path = tmp_path / "file"
        path.write_bytes(data)
        try:
            check(path)
        except NotGGUFError as error:
            return str(error)
        return ""

    return judge


@pytest.mark.parametrize(
    "make",
    ["llama", "fim", "bert", "mamba", "gemma2", "t5", "qwen2vl", "lora", "projector", "qwen2vl_projector"],
)
def test_models_adapters_and_projectors_are_whole_until_a_byte_is_missing(make, tmp_path, verdict):
    data = getattr(Models(tmp_path), make)().read_bytes()
    assert verdict(data) == ""
    end = len(data.rstrip(b"\0"))  # the padding of the last tensor may be missing
    assert verdict(data[: end - 32]).startswith("is not a complete GGUF file: it has")


def test_a_cut_anywhere_is_found(tmp_path, verdict):
    data = Models(tmp_path).llama().read_bytes()
    places = {*range(4, 200), *random.Random(1).sample(range(200, len(data) - 64), 200)}
    for place in sorted(places):
        assert "is not a complete GGUF file" in verdict(data[:place]), place


def test_each_part_of_a_split_model_is_a_file_of_its_own(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=1)
    for name in ("a", "b"):
        writer.add_tensor(name, np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.glob("m-*.gguf"))
    assert len(parts) == 2
    for part in parts:
        check(part)


def test_bytes_behind_the_end_do_no_harm(verdict):
    assert verdict(whole(b"x" * 100) + b"\0" * 5000) == ""


def test_the_size_that_is_missing_is_told(tmp_path):
    path = tmp_path / "file"
    data = whole(b"x" * 1000)
    path.write_bytes(data[:-1])
    with pytest.raises(
        CutOffError, match=f"it has {len(data) - 1:,} bytes, but its header requires {len(data):,}"
    ) as cut:
        check(path)
    assert cut.value.needed == len(data)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"", "is not a GGUF file: it is empty"),
        (b"<!DOCTYPE html>\n<title>Sign in</title>", 'is not a GGUF file: it begins with "<!DOCTYPE html>"'),
        (b"\r\n  <html>" + b" x" * 60, 'it begins with "<html> x'),
        (b'{"error": "no such file"}', 'it begins with "{"error": "no such file"}"'),
        (b"version https://git-lfs.github.com/spec/v1\noid", "(a Git LFS pointer, which stands for the file)"),
        (b"PK\x03\x04\x14\0\0\0", "it begins with 50 4b 03 04 14 00 00 00 (a ZIP archive)"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03", "it begins with 1f 8b 08 00 00 00 00 00 (gzip)"),
        (b"\x88\x01\0\0\0\0\0\0" + b'{"__metadata__":{}}', "(safetensors)"),
        (b"tjgg\x03\0\0\0", "(the format before GGUF)"),
        (b"\0" * 64, "it begins with 00 00 00 00"),
        ("Bitte anmelden: größer".encode(), 'it begins with "Bitte anmelden: größer"'),
        (b"GG", "it begins with 47 47"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:30],
)
def test_the_error_shows_the_start_of_a_file_that_is_no_gguf(head, message, verdict):
    with pytest.raises(NotGGUFError) as told:
        check_begin(head[:64])
    assert message in str(told.value)
    assert verdict(head) == str(told.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGUF", "not a complete GGUF file"),
        (header(version=u32(3)[::-1]), "for big-endian machines"),
        (header(version=u32(1)), "of version 1"),
        (header(counts=(2**63, 0)), "not a complete GGUF file"),
        (header(counts=(0, 2**64 - 1)), "not a complete GGUF file"),
        (header(values=[u64(2**64 - 1) + b"name" * 9]), "a name has 18,446,744,073,709,551,615 bytes"),
        (header(values=[value(b"k", STRING, u64(2**64 - 1))]), "not a complete GGUF file"),
        (header(values=[value(b"k", ARRAY, u32(STRING) + u64(2**40))]), "not a complete GGUF file"),
        (header(values=[value(b"k", ARRAY, u32(UINT32) + u64(2**62))]), "not a complete GGUF file"),
        (header(values=[value(b"k", 77, b"\0" * 64)]), "a value has the unknown type 77"),
        (header(values=[value(b"k", ARRAY, u32(77) + u64(1) + b"\0" * 8)]), "a value has the unknown type 77"),
        (header(values=[value(b"k", ARRAY, (u32(ARRAY) + u64(1)) * 900)]), "arrays are nested too deeply"),
        (header(values=[value(b"general.alignment", UINT32, u32(0))]), "general.alignment is no power of two"),
        (header(values=[value(b"general.alignment", UINT32, u32(48))]), "general.alignment is no power of two"),
        (header(values=[value(b"general.alignment", STRING, text(b"32"))]), "general.alignment is no power of two"),
        (header([Tensor((1,) * 9)]), "a tensor has 9 dimensions"),
        (header([Tensor((2**63, 2**63, 2**63))]), "not a complete GGUF file"),
        (header([Tensor((1,), offset=2**64 - 1)]), "not a complete GGUF file"),
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(data, message, verdict):
    assert message in verdict(data)


def test_a_vocabulary_without_end_is_refused(verdict, monkeypatch):
    monkeypatch.setattr(gguf_check, "_MOST_VALUES", 1000)
    strings = value(b"k", ARRAY, u32(STRING) + u64(400) + text(b"") * 400)
    assert verdict(header(values=[strings] * 2)) == ""
    assert "there are more than 1,000 values" in verdict(header(values=[strings] * 3))


def test_random_damage_ends_in_a_verdict(tmp_path, verdict):
    """No other error, no endless loop, no memory for what is not there."""
    data, chance = Models(tmp_path).llama().read_bytes(), random.Random(5)
    for _ in range(300):
        damaged = bytearray(data)
        for place in chance.sample(range(4, 3000), 3):
            damaged[place] = chance.randrange(256)
        verdict(bytes(damaged))
        assert verdict(b"GGUF" + u32(3) + chance.randbytes(200))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_versions_and_alignments(version, alignment, verdict):
    values = [value(b"general.alignment", UINT32, u32(alignment))]
    data = header([Tensor((100,))], values, version=u32(version), alignment=alignment) + b"x" * 100
    assert verdict(data) == ""
    assert "not a complete GGUF file" in verdict(data[:-1])


def test_an_unknown_quantization_weakens_the_check_alone(verdict):
    data = header([Tensor((32, 100), kind=99), Tensor((64,), offset=3200, name=b"u")]) + b"x" * 3264
    assert verdict(data) == ""
    assert "not a complete GGUF file" in verdict(data[:-1])
    last = header([Tensor((64,), name=b"u"), Tensor((32, 100), kind=99, offset=64)]) + b"x" * 64
    assert verdict(last) == ""
    assert "not a complete GGUF file" in verdict(last[:-1])


def test_a_version_to_come_is_left_to_the_library(verdict):
    assert verdict(header(version=u32(4)) + b"who knows") == ""


def test_arrays_of_arrays_may_be(verdict):
    inner = (u32(UINT32) + u64(2) + u32(7) * 2) + (u32(STRING) + u64(1) + text(b"x"))
    nested = value(b"k", ARRAY, u32(ARRAY) + u64(2) + inner)
    data = header([Tensor((10,))], [nested]) + b"x" * 10
    assert verdict(data) == ""
    assert "not a complete GGUF file" in verdict(data[:-1])


def test_the_sizes_of_types_are_the_librarys():
    """Every type that it knows, and no other."""
    from llama_cpp import llama_cpp as lib

    ggml = lib._lib
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_type_name.restype = ctypes.c_char_p
    count = max(gguf_check.TYPES) + 1
    theirs = {kind: (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)) for kind in range(count)}
    assert {kind: sizes for kind, sizes in theirs.items() if all(sizes)} == gguf_check.TYPES
