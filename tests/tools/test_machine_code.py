"""The AMX tiles of the build that ships are configured by what the source says, whatever the compiler makes of it.

GCC 12 drops most stores of the configuration before `ldtilecfg` (tools/patches.py), which crashes on CPUs
that few developers have. So the machine code itself is read.
"""

import platform
from pathlib import Path

import llama_cpp
import pytest

from tests.support.engine import tile_config

LIBRARIES = sorted(Path(llama_cpp.__file__).parent.glob("lib/*.so"))
# tile_config_t as ggml_tile_config_init fills it: palette and first row, 14 unused bytes, bytes a row of 16
# tiles (2 bytes each), rows of 16 tiles
WIDTHS, ROWS = (64, 64, 32, 32, 64, 64, 64, 64), (8, 8, 16, 16, 16, 16, 16, 16)
WANTED = [1, *bytes(15), *b"".join(width.to_bytes(2, "little") for width in WIDTHS), *bytes(16), *ROWS, *bytes(8)]

# Of ggml/src/ggml-cpu/amx/mmq.cpp without our patch, compiled by GCC 12.2 with the flags of the module sapphirerapids.
UNPATCHED = """
   2feb9:	lea    0x0(%rip),%rdi        # 2fec0 <ggml_backend_amx_mul_mat+0x2e0>
   2fec0:	call   2fec5 <ggml_backend_amx_mul_mat+0x2e5>
   2fec5:	cmpb   $0x0,0x0(%rax)
   2fecc:	jne    2fef3 <ggml_backend_amx_mul_mat+0x313>
   2fece:	vpxor  %xmm0,%xmm0,%xmm0
   2fed2:	vmovdqa64 %zmm0,0xc0(%rsp)
   2feda:	movb   $0x1,0xc0(%rsp)
   2fee2:	ldtilecfg 0xc0(%rsp)
"""
# With it, by the same compiler. Two of the stores come from constants.
PATCHED = """
   8522f:	call   15730 <__tls_get_addr@plt>
   85235:	cmpb   $0x0,0x10600(%rax)
   8523c:	jne    85283 <ggml_backend_amx_mul_mat@@Base+0x333>
   8523e:	vpxor  %xmm0,%xmm0,%xmm0
   85242:	mov    0x105407(%rip),%rdx        # 18a650 <_ZTSN4ggml3cpu3amx17extra_buffer_typeE@@Base+0x730>
   85249:	vmovdqa64 %zmm0,0xc0(%rsp)
   85251:	vmovdqa 0x1053e7(%rip),%xmm0        # 18a640 <_ZTSN4ggml3cpu3amx17extra_buffer_typeE@@Base+0x720>
   85259:	movb   $0x1,0xc0(%rsp)
   85261:	mov    %rdx,0xf0(%rsp)
   85269:	vmovdqa %xmm0,0xd0(%rsp)
   85272:	ldtilecfg 0xc0(%rsp)
"""
CONSTANTS = {0x18A650: bytes(ROWS), 0x18A640: bytes(WANTED[16:32])}


def constants(at, length):
    return CONSTANTS.get(at, b"")[:length] or None


def nothing(at, length):
    return None


@pytest.mark.slow
def test_every_library_stores_the_whole_configuration():
    found = {}
    for library in LIBRARIES:
        if tile_config.OPCODE.search(library.read_bytes()):
            text, read = tile_config.disassembly(library), tile_config.contents(library)
            if configured := list(tile_config.configurations(text, read)):
                found[library.name] = configured
    if platform.machine() == "x86_64":
        assert "libggml-cpu-sapphirerapids.so" in found
    assert {name: [one == WANTED for one in every] for name, every in found.items()} == {
        name: [True] * len(every) for name, every in found.items()
    }, found


def test_what_gcc_12_makes_of_the_source_as_it_was_is_seen_to_be_wrong():
    (found,) = tile_config.configurations(UNPATCHED, nothing)
    assert found == [1, *bytes(63)]
    assert found != WANTED


def test_what_it_makes_of_the_patched_source_is_right():
    assert list(tile_config.configurations(PATCHED, constants)) == [WANTED]


@pytest.mark.parametrize("line", ["vmovdqa64", "vmovdqa 0x", "movb", "mov    %rdx", "vmovdqa %xmm0"])
def test_each_store_matters(line):
    lines = PATCHED.splitlines()
    assert sum(f"\t{line}" in text for text in lines) == 1
    without = "\n".join(text for text in lines if f"\t{line}" not in text)
    assert list(tile_config.configurations(without, constants)) != [WANTED]


LAST = "   85272:	ldtilecfg 0xc0(%rsp)"


@pytest.mark.parametrize(
    "between",
    [
        "vpaddd %zmm1,%zmm2,0xc0(%rsp)",  # a store of something unknown
        "sub    $0x40,%rsp",  # the address means another place
        "jmp    1234 <f>",
    ],
)
def test_what_is_not_certain_does_not_count(between):
    text = PATCHED.replace(LAST, f"   85271:	{between}\n{LAST}")
    (found,) = tile_config.configurations(text, constants)
    assert None in found


def test_a_place_that_is_jumped_to_may_have_been_reached_without_the_stores():
    text = f"{PATCHED}\n   90000:	je     85272 <f+0x10>\n"
    assert list(tile_config.configurations(text, constants)) == [[None] * 64]


def test_other_ways_to_store_the_same():
    text = """
       1:	xor    %eax,%eax
       2:	movabs $0x1010101010100808,%rcx
       3:	vxorps %xmm3,%xmm3,%xmm3
       4:	vmovups %ymm3,(%rdi)
       5:	vmovups %ymm3,0x20(%rdi)
       6:	movw   $0x1,(%rdi)
       7:	movq   $0x0,0x8(%rdi)
       8:	movl   $0x400040,0x10(%rdi)
       9:	movl   $0x200020,0x14(%rdi)
       a:	movl   $0x400040,0x18(%rdi)
       b:	mov    0x18(%rdi),%edx
       c:	mov    %edx,0x1c(%rdi)
       d:	mov    %rcx,0x30(%rdi)
       e:	mov    %al,0x1(%rdi)
       f:	ldtilecfg (%rdi)
    """
    assert list(tile_config.configurations(text, nothing)) == [WANTED]
    constant = "  1:	ldtilecfg 0x100(%rip)        # 18a640 <x>"
    assert list(tile_config.configurations(constant, lambda at, length: bytes(WANTED))) == [WANTED]
