"""Patches for llama.cpp's source, for our library and for the benchmarks' peer.

A patch repairs a fault on both sides, or does nothing until a variable switches it on. So both sides of a benchmark run
the same library. A patch is exact text that must occur once. When a release changes that text, the build stops.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Patch:
    """In `file`, below the source distribution's top: `before` becomes `after`."""

    file: str
    before: str
    after: str


_CPU = "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c"
_MUL_MAT = """void ggml_compute_forward_mul_mat(
        const struct ggml_compute_params * params,
              struct ggml_tensor * dst) {
"""

_AMX = "vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
_TILE_CONFIG = "inline void ggml_tile_config_init(void) {\n"

# GCC 12 describes the AMX instructions to its optimiser with too little memory: `_tile_loadconfig`
# reads 64 bytes and names 8, `_tile_loadd` reads a tile and names none. So -O3 drops the stores of
# the configuration, and the first matrix product ends with SIGSEGV or SIGILL on every CPU with AMX
# (llama.cpp issue 20824). The same stores to a tile could move behind its load. A compiler barrier
# costs no instruction.
_TILE_BARRIERS = (
    Patch(
        _AMX,
        _TILE_CONFIG,
        """#if defined(__GNUC__) && !defined(__clang__)
#define GGML_COMPILER_BARRIER() __asm__ volatile("" ::: "memory")
#undef _tile_loadd
#define _tile_loadd(dst, base, stride)             \\
    do {                                           \\
        GGML_COMPILER_BARRIER();                   \\
        _tile_loadd_internal(dst, base, stride);   \\
        GGML_COMPILER_BARRIER();                   \\
    } while (0)
#endif

"""
        + _TILE_CONFIG,
    ),
    Patch(
        _AMX,
        "    _tile_loadconfig(&tc);\n",
        """#if defined(__GNUC__)
    __asm__ volatile("" : "+m"(tc));
#endif
    _tile_loadconfig(&tc);
""",
    ),
)

# With GGML_ROWS_BY_THREAD=1, each thread takes one range of a matrix's rows while few tokens are evaluated, as on NUMA
# machines. Otherwise it takes one chunk of rows after another. Two threads share nine chunks as five and four, and each
# jump defeats the prefetcher. On two cores, one stream of the default model decodes 1.4 times as fast, eight streams
# 1.1 times (docs/explanation/performance.md). Each row is computed as before, so results are the same bit for bit.
_ROWS_BY_THREAD = (
    Patch(
        _CPU,
        _MUL_MAT,
        """static bool rows_by_thread(void) {
    static atomic_int known = -1;
    int on = atomic_load_explicit(&known, memory_order_relaxed);
    if (on < 0) {
        const char * value = getenv("GGML_ROWS_BY_THREAD");
        on = value != NULL && strcmp(value, "1") == 0;
        atomic_store_explicit(&known, on, memory_order_relaxed);
    }
    return on;
}

"""
        + _MUL_MAT,
    ),
    Patch(
        _CPU,
        "    if (nchunk0 * nchunk1 < nth * 4 || ggml_is_numa()) {\n",
        "    if (nchunk0 * nchunk1 < nth * 4 || ggml_is_numa() || (nchunk1 == 1 && rows_by_thread())) {\n",
    ),
)

# The Python package needs the libraries llama, ggml and mtmd alone. Compiling the command line's helpers
# takes a minute and more.
_NO_COMMON = Patch(
    "CMakeLists.txt",
    'set(LLAMA_BUILD_COMMON ON CACHE BOOL "Build llama.cpp common library" FORCE)',
    'set(LLAMA_BUILD_COMMON OFF CACHE BOOL "Build llama.cpp common library" FORCE)',
)
_CMAKE = "vendor/llama.cpp/ggml/src/CMakeLists.txt"
# CPU modules for rare processors. Each takes one minute to compile. Those processors load the next plainer module:
# skylakex, cascadelake and sandybridge.
_RARE = tuple(
    Patch(_CMAKE, f"ggml_add_cpu_backend_variant({name} ", f"# ggml_add_cpu_backend_variant({name} ")
    for name in ("cannonlake", "cooperlake", "piledriver")
)
PATCHES = (*_TILE_BARRIERS, *_ROWS_BY_THREAD, _NO_COMMON, *_RARE)


def digest() -> str:
    """A key that differs for other patches."""
    return hashlib.sha256(repr(PATCHES).encode()).hexdigest()


def apply(top: Path, without: Sequence[Patch] = ()) -> None:
    """Patch an unpacked source distribution. Exits when a patch does not fit. Tests leave patches out (`without`)."""
    for patch in PATCHES:
        if patch in without:
            continue
        path = top / patch.file
        text = path.read_text() if path.exists() else ""
        if text.count(patch.before) != 1:
            sys.exit(f"a patch of tools/patches.py does not fit {patch.file}: this release has changed there")
        path.write_text(text.replace(patch.before, patch.after))
