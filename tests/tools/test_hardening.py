"""The native libraries are built with the usual protections (tools/build.py), read from their ELF files.

Models and texts of strangers are parsed in this code. A protection does not prevent a fault, but most faults then end
the process instead of giving it to the attacker.
"""

import io
import platform
import subprocess
from pathlib import Path

import llama_cpp
import pytest
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile

from tests.support import image_archive
from tools import images

BUILT = {path.name: path for path in sorted(Path(llama_cpp.__file__).parent.glob("lib/*.so"))}
# What an indirect jump may lead to: endbr64 of x86-64; `bti c`, `bti jc` and `paciasp` of arm64, little-endian.
LANDING_PADS = {
    "x86_64": (bytes.fromhex("f30f1efa"),),
    "aarch64": (bytes.fromhex("5f2403d5"), bytes.fromhex("df2403d5"), bytes.fromhex("3f2303d5")),
}[platform.machine()]
# libggml.so only loads the other libraries. None of the calls in it has a checked form.
WITHOUT_CHECKED_CALLS = {"libggml.so"}
NOW = {"DT_FLAGS": 0x8, "DT_FLAGS_1": 0x1}  # DF_BIND_NOW, DF_1_NOW


class Library:
    """One shared library, by the properties that matter here."""

    def __init__(self, content):
        self._elf = ELFFile(io.BytesIO(content))
        symbols = list(self._elf.get_section_by_name(".dynsym").iter_symbols())
        self.imports = {symbol.name for symbol in symbols if symbol["st_shndx"] == "SHN_UNDEF"}
        self._functions = [
            symbol
            for symbol in symbols
            if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(symbol["st_shndx"], int)
        ]
        self._tags = list(self._elf.get_section_by_name(".dynamic").iter_tags())
        self._segments = {segment["p_type"]: segment for segment in self._elf.iter_segments()}

    def missing(self, name):
        """The protections that this library lacks, in words."""
        problems = {
            "stack protector": "__stack_chk_fail" in self.imports,
            "checked calls": name in WITHOUT_CHECKED_CALLS or any(name.endswith("_chk") for name in self.imports),
            "landing pads": not self.without_landing_pad(),
            **self.linked(),
        }
        return [problem for problem, fine in problems.items() if not fine]

    def linked(self):
        """What the linker is responsible for."""
        paths = [getattr(tag, "rpath", None) or getattr(tag, "runpath", "") for tag in self._tags]
        stack = self._segments.get("PT_GNU_STACK")
        return {
            "RELRO": "PT_GNU_RELRO" in self._segments,
            "BIND_NOW": any(
                tag.entry.d_tag == "DT_BIND_NOW" or tag.entry.d_val & NOW.get(tag.entry.d_tag, 0) for tag in self._tags
            ),
            "stack without code": stack is not None and not stack["p_flags"] & P_FLAGS.PF_X,
            "no segment both written and run": not any(
                segment["p_flags"] & P_FLAGS.PF_X and segment["p_flags"] & P_FLAGS.PF_W
                for segment in self._elf.iter_segments("PT_LOAD")
            ),
            "no relocations in code": all(tag.entry.d_tag != "DT_TEXTREL" for tag in self._tags),
            "RPATH of its own folder": all(part in ("", "$ORIGIN") for path in paths for part in path.split(":")),
        }

    def without_landing_pad(self):
        """Exported functions that do not begin with a landing pad.

        The note that turns the check on for a whole library is not looked at: the linker leaves it out when one object
        file lacks it, and those of Debian 12's C library (crti.o) do.
        """
        return [function.name for function in self._functions if self._at(function, 4) not in LANDING_PADS]

    def _at(self, symbol, length):
        section = self._elf.get_section(symbol["st_shndx"])
        self._elf.stream.seek(section["sh_offset"] + symbol["st_value"] - section["sh_addr"])
        return self._elf.stream.read(length)


def missing(libraries):
    """The protections that are missing, by library: nothing is right."""
    found = {name: Library(content).missing(name) for name, content in libraries.items()}
    return {name: problems for name, problems in found.items() if problems}


def test_every_library_has_every_protection():
    assert {"libllama.so", "libggml-base.so", "libggml.so", "libmtmd.so"} <= set(BUILT)
    assert missing({name: path.read_bytes() for name, path in BUILT.items()}) == {}


def test_the_exception_is_needed():
    """A library that uses checked calls after a later version of llama.cpp needs no exception any more."""
    for name in WITHOUT_CHECKED_CALLS:
        assert not any(called.endswith("_chk") for called in Library(BUILT[name].read_bytes()).imports)


def test_nothing_is_built_that_listens():
    """llama.cpp's RPC backend takes commands from the network without a key (CVE-2024-42479)."""
    assert [name for name in BUILT if "rpc" in name] == []
    calls = {"listen", "accept", "accept4", "bind", "connect"}
    found = {name: Library(path.read_bytes()).imports & calls for name, path in BUILT.items()}
    assert [name for name, used in found.items() if used] == []


@pytest.mark.slow
def test_a_library_without_the_flags_is_seen(tmp_path):
    """The test would notice: a library that is compiled with all of this switched off lacks all of it."""
    (tmp_path / "a.c").write_text("#include <string.h>\nvoid copy(char *to, char *from) { strcpy(to, from); }\n")
    off = ["-fno-stack-protector", "-U_FORTIFY_SOURCE", "-z", "norelro", "-z", "lazy", "-z", "execstack"]
    jumps = "-fcf-protection=none" if platform.machine() == "x86_64" else "-mbranch-protection=none"
    made = tmp_path / "liba.so"
    command = ["cc", "-shared", "-fPIC", "-O2", *off, jumps, "-Wl,-rpath,/tmp", "-o", str(made), str(tmp_path / "a.c")]
    subprocess.run(command, check=True, capture_output=True)
    assert Library(made.read_bytes()).missing("liba.so") == [
        "stack protector",
        "checked calls",
        "landing pads",
        "RELRO",
        "BIND_NOW",
        "stack without code",
        "RPATH of its own folder",
    ]


def in_image(path):
    """The shared libraries of an image's archive by their path."""
    return {
        Path(entry.name).name: layer.extractfile(entry).read()
        for layer, entry in image_archive.entries(path)
        if entry.isreg() and entry.name.endswith(".so") and "/llama_cpp/lib/" in entry.name
    }


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_libraries_in_the_image_have_them_too():
    libraries = in_image(images.prepare(images.SERVER))
    assert {"libllama.so", "libggml-base.so", "libggml.so", "libmtmd.so"} <= set(libraries)
    assert missing(libraries) == {}
